from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.predictions import read_predictions, read_provenance, write_predictions
from src.files.provenance import Provenance
from src.labels import LABELS

PROVENANCE = Provenance(conf="net", fold=3, epoch=2, checkpoint="abc", split="test", slices="def", tta="Identity")


def test_round_trip_with_provenance(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    path = tmp_path / "p.parquet"
    write_predictions(path, pd.Series(["ID_3", "ID_1", "ID_2", "ID_0"]), probabilities, PROVENANCE)
    read = read_predictions(path)
    assert read.ids.tolist() == ["ID_3", "ID_1", "ID_2", "ID_0"]
    np.testing.assert_array_equal(read.probabilities, probabilities)
    assert read.provenance == PROVENANCE
    assert read_provenance(path) == PROVENANCE
    assert list(pd.read_parquet(path).columns) == ["ID", *LABELS]
    assert (pd.read_parquet(path).dtypes[list(LABELS)] == np.float32).all()


def test_files_from_elsewhere_have_no_provenance(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.full((1, 6), 0.5), columns=list(LABELS)).assign(ID="ID_1")
    frame[["ID", *LABELS]].to_parquet(tmp_path / "p.parquet")
    assert read_predictions(tmp_path / "p.parquet").provenance is None
    assert read_provenance(tmp_path / "none.parquet") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, r"1 probabilities are not in \[0, 1\]: ID_1 epidural 1.5"), (np.nan, "ID_1 epidural nan"), (-0.1, "-0.1")],
)
def test_what_is_no_probability_is_named(tmp_path: Path, value: float, expected: str) -> None:
    probabilities = np.full((2, 6), 0.5)
    probabilities[1, 1] = value
    write_predictions(tmp_path / "p.parquet", pd.Series(["ID_0", "ID_1"]), probabilities, PROVENANCE)
    with pytest.raises(UserError, match=expected):
        read_predictions(tmp_path / "p.parquet")


def test_repeated_ids_and_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, pd.Series(["ID_0", "ID_0"]), np.full((2, 6), 0.5), PROVENANCE)
    with pytest.raises(UserError, match="column ID: 1 values come more than once: ID_0"):
        read_predictions(path)
    pd.DataFrame({"ID": ["ID_0"], **{label: ["x"] for label in LABELS}}).to_parquet(path)
    with pytest.raises(UserError, match="column any: expected numbers, found large_string"):
        read_predictions(path)


def test_a_filtered_frame_from_elsewhere_names_the_right_slice(tmp_path: Path) -> None:
    frame = pd.DataFrame({"ID": ["ID_a", "ID_b", "ID_c"], **{label: [0.1, 0.2, 1.5] for label in LABELS}})
    frame[frame["ID"] != "ID_a"].to_parquet(tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"6 probabilities are not in .*: ID_c any 1.5"):
        read_predictions(tmp_path / "p.parquet")
