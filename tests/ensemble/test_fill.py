from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.ensemble.bag import Member
from src.ensemble.fill import FROM_NEIGHBOURS, FROM_PREVALENCE, fill_from_store, fill_rejected
from src.errors import UserError
from src.files.layout import Layout
from src.files.tables import read_table, write_table

PREVALENCE = np.array([0.14, 0.004, 0.05, 0.035, 0.05, 0.06])
# two series; ID_a2 and ID_a3, ID_b0 and all of ID_c's were rejected, ID_d even in its header
TABLE = pd.DataFrame(
    {
        "ID": ["ID_a3", "ID_a0", "ID_a1", "ID_a2", "ID_a4", "ID_b0", "ID_b1", "ID_c0", "ID_d"],
        "SeriesInstanceUID": ["a", "a", "a", "a", "a", "b", "b", "c", ""],
        "z_index": [3, 0, 1, 2, 4, 0, 1, 0, -1],
    }
)
BAGGED = Member(
    "bag", pd.Index(["ID_a0", "ID_a1", "ID_a4", "ID_b1"]), np.array([[0.1], [0.2], [0.8], [0.4]]) * np.ones(6)
)


def _fill(rejected: list[str]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    filled, counts = fill_rejected(BAGGED, pd.Index(rejected), TABLE, PREVALENCE)
    return dict(zip(filled.ids, filled.probabilities, strict=True)), dict(counts)


def test_between_two_neighbours() -> None:
    # both take the nearest predicted slices, 1 below and 4 above, over the rejected ones between
    filled, counts = _fill(["ID_a2", "ID_a3"])
    np.testing.assert_allclose(filled["ID_a2"], 0.5)
    np.testing.assert_allclose(filled["ID_a3"], 0.5)
    assert counts == {FROM_NEIGHBOURS: 2}


def test_at_an_end_the_one_neighbour() -> None:
    filled, counts = _fill(["ID_b0"])
    np.testing.assert_allclose(filled["ID_b0"], 0.4)
    assert counts == {FROM_NEIGHBOURS: 1}


def test_without_neighbours_the_prevalence() -> None:
    filled, counts = _fill(["ID_c0", "ID_d"])
    np.testing.assert_allclose(filled["ID_c0"], PREVALENCE)
    np.testing.assert_allclose(filled["ID_d"], PREVALENCE)
    assert counts == {FROM_PREVALENCE: 2}


def test_what_was_predicted_stays() -> None:
    filled, _ = _fill(["ID_a2"])
    np.testing.assert_allclose(filled["ID_a4"], 0.8)
    same, counts = fill_rejected(BAGGED, pd.Index([]), TABLE, PREVALENCE)
    assert same is BAGGED
    assert not counts


def test_a_table_of_another_input_than_the_store_is_told(preprocessed: Layout, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for name in ("test", "train.parquet"):
        (tmp_path / "cache" / name).symlink_to(preprocessed.root / "cache" / name)
    (rejected,) = pd.read_csv(preprocessed.store("test") / "rejected.csv")["ID"]
    table = read_table(preprocessed.table("test"), ["ID"], step="")
    write_table(table[table["ID"] != rejected], tmp_path / "cache/test.parquet")
    with pytest.raises(UserError, match=rf"test.parquet lacks 1 rejected slices, {rejected}: it is of another input"):
        fill_from_store(BAGGED, pd.Index([rejected]), Layout(tmp_path))
