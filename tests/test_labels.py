import pandas as pd
import pytest

from src.errors import UserError
from src.labels import LABELS, WEIGHTS, row_ids, split_row_ids


def test_order_and_weights_are_the_competitions() -> None:
    assert LABELS == ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
    assert WEIGHTS == (2, 1, 1, 1, 1, 1)


def test_row_ids_and_back() -> None:
    slice_ids = pd.Series(["ID_0123abcd9", "ID_f"])
    rows = row_ids(slice_ids)
    assert rows.iloc[0] == "ID_0123abcd9_any"
    assert rows.iloc[11] == "ID_f_subdural"
    ids, codes = split_row_ids(rows)
    assert ids.tolist() == [each for each in slice_ids for _ in LABELS]
    assert codes.tolist() == [0, 1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize(
    "bad",
    ["ID_12_epidurl", "ID_xyz_any", "12_any", "ID_12", "", "ID_12_any_any", "ID_../../x_any", "ID_12_any\n", None],
)
def test_malformed_ids_are_named(bad: str | None) -> None:
    with pytest.raises(UserError, match="1 malformed ids"):
        split_row_ids(pd.Series(["ID_12_any", bad]))


def test_error_tells_the_row_of_the_csv() -> None:
    with pytest.raises(UserError, match="'oops' in row 3"):
        split_row_ids(pd.Series(["ID_12_any", "oops"]))
