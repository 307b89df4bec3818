from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.label_csv import pivot_labels
from src.labels import LABELS

Write = Callable[..., Path]
LABELLED = np.array([[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]])


def test_pivot(write_labels: Write, tmp_path: Path) -> None:
    table, repeated = pivot_labels(write_labels(tmp_path / "l.csv", ["ID_b", "ID_a"], LABELLED), test=False)
    assert repeated == 0
    assert table.columns.tolist() == ["ID", *LABELS]
    assert table["ID"].tolist() == ["ID_b", "ID_a"]
    assert (table.dtypes[list(LABELS)] == np.uint8).all()
    assert table[list(LABELS)].to_numpy().tolist() == LABELLED.tolist()


def test_pivot_agrees_with_pandas(write_labels: Write, competition: Path) -> None:
    csv = competition / "input/stage_2_train.csv"
    table, repeated = pivot_labels(csv, test=False)
    rows = pd.read_csv(csv)
    assert repeated == rows["ID"].duplicated().sum() > 0
    parts = rows.drop_duplicates()["ID"].str.rsplit("_", n=1, expand=True)
    expected = (
        rows.drop_duplicates()
        .assign(slice=parts[0], label=parts[1])
        .pivot(index="slice", columns="label", values="Label")
    )
    found = table.set_index("ID").sort_index()[list(LABELS)]
    np.testing.assert_array_equal(found.to_numpy(), expected[list(LABELS)].to_numpy())


def test_repeated_rows_are_counted_and_conflicting_ones_named(write_labels: Write, tmp_path: Path) -> None:
    csv = write_labels(tmp_path / "l.csv", ["ID_b", "ID_a"], LABELLED, "ID_b_any,1\nID_a_epidural,0\n")
    assert pivot_labels(csv, test=False)[1] == 2
    csv = write_labels(tmp_path / "l.csv", ["ID_b", "ID_a"], LABELLED, "ID_b_any,0\n")
    with pytest.raises(UserError, match="1 rows come more than once with conflicting labels: ID_b_any"):
        pivot_labels(csv, test=False)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("ID_c_any,1\n", "5 rows are missing, each slice needs 6: ID_c_epidural, ID_c_intraparenchymal"),
        ("ID_zz_any,1\n", r"l.csv: 1 malformed ids: 'ID_zz_any' in row 14"),
        ("ID_b_any,0.5\n", "1 labels are not 0 or 1: ID_b_any has 0.5"),
        ("ID_b_any,\n", "1 labels are not 0 or 1: ID_b_any has nan"),
        ("ID_b_any,abc\n", "1 labels are not 0 or 1: ID_b_any has abc"),
    ],
)
def test_mistakes_in_the_csv_are_named(write_labels: Write, tmp_path: Path, extra: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        pivot_labels(write_labels(tmp_path / "l.csv", ["ID_b", "ID_a"], LABELLED, extra), test=False)


def test_a_sample_submissions_label_is_ignored(write_labels: Write, tmp_path: Path) -> None:
    table, _ = pivot_labels(write_labels(tmp_path / "s.csv", ["ID_b", "ID_a"], LABELLED + 0.5), test=True)
    assert table.columns.tolist() == ["ID"]
