from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.folds import patient_hashes, read_fold_table
from src.files.layout import Layout
from src.files.tables import write_table

FOLDS = pd.DataFrame({"ID": ["ID_a", "ID_b", "ID_c"], "PatientID": ["p", "p", "q"], "fold": [0, 0, 1]})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fold": [0, 1, 1]}, "splits 1 patients, p: .* delete it"),
        ({"ID": ["ID_a", "ID_a", "ID_c"]}, "column ID: 1 values come more than once: ID_a"),
        ({"fold": [0.0, np.nan, 1.0]}, "column fold: expected whole numbers, found double"),
        ({"PatientID": ["p", None, "q"]}, "empty values"),
        ({"fold": [0, 0, -1]}, "column fold: 1 values, -1; expected 0 to 127"),
        ({"fold": [[0], [0], [1]]}, "whole numbers"),
        ({"fold": ["0", "0", "1"]}, "whole numbers"),
    ],
)
def test_folds_that_nothing_can_be_held_out_by(tmp_path: Path, changed: dict[str, list[object]], words: str) -> None:
    layout = Layout(tmp_path)
    write_table(FOLDS, layout.folds)
    pd.testing.assert_frame_equal(read_fold_table(layout), FOLDS)
    write_table(FOLDS.assign(**changed), layout.folds)
    with pytest.raises(UserError, match=words) as refused:
        read_fold_table(layout)
    assert refused.value.step == "preprocess"


def test_a_patient_has_the_same_number_everywhere() -> None:
    numbers = patient_hashes(pd.Series(["p", "q", "p", ""]))
    assert numbers.dtype == np.uint64
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3
    assert patient_hashes(pd.Series(["q"]))[0] == numbers[1]
