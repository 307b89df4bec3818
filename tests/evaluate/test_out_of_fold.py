import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.evaluate.out_of_fold import check_out_of_fold, read_truth
from src.files.layout import Layout
from src.files.predictions import Origin, Predictions
from src.files.tables import write_table
from src.labels import LABELS

ORIGIN = Origin("net", 1, 2, "c", "valid", "s", "Identity")


def _predictions(ids: pd.Index, origin: Origin | None) -> Predictions:
    return Predictions(Path("p.parquet"), pd.Series(ids), np.full((len(ids), 6), 0.5), origin)


def test_the_truth_is_joined_by_id(preprocessed: Layout) -> None:
    truth = read_truth(preprocessed)
    table = pd.read_parquet(preprocessed.table("train")).set_index("ID").loc[truth.ids]
    folds = pd.read_parquet(preprocessed.folds).set_index("ID")["fold"]
    np.testing.assert_array_equal(truth.targets, table[list(LABELS)].to_numpy())
    np.testing.assert_array_equal(truth.folds, folds[truth.ids])
    for codes, column in ((truth.patients, "PatientID"), (truth.studies, "StudyInstanceUID")):
        assert pd.Series(codes).groupby(table[column].to_numpy()).nunique().max() == 1
        assert len(np.unique(codes)) == table[column].nunique()
    some = truth.of(truth.ids[[5, 2]])
    np.testing.assert_array_equal(some.targets, truth.targets[[5, 2]])
    assert len(some) == 2
    with pytest.raises(UserError, match="1 predicted slices are not among the training slices: ID_zz"):
        truth.of(pd.Index(["ID_zz", truth.ids[0]]))


def test_what_its_network_saw_is_not_out_of_fold(preprocessed: Layout) -> None:
    truth = read_truth(preprocessed)
    own = truth.ids[truth.folds == 1]
    check_out_of_fold([_predictions(own, ORIGIN), _predictions(truth.ids, None)], truth)
    other = truth.ids[truth.folds == 0][0]
    with pytest.raises(UserError, match=f"1 slices are not in fold 1, so its network was trained on them: {other}"):
        check_out_of_fold([_predictions(own.append(pd.Index([other])), ORIGIN)], truth)
    with pytest.raises(UserError, match=r"p.parquet is of the test set; expected out-of-fold"):
        check_out_of_fold([_predictions(own, replace(ORIGIN, split="test"))], truth)


def test_tables_that_disagree_are_named(preprocessed: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    other.folds.parent.mkdir()
    shutil.copy(preprocessed.folds, other.folds)
    table = pd.read_parquet(preprocessed.table("train"))
    folds = pd.read_parquet(preprocessed.folds)
    write_table(table[table["ID"] != folds["ID"][3]], other.table("train"))
    with pytest.raises(UserError, match=f"has 1 slices that .*train.parquet lacks: {folds['ID'][3]}"):
        read_truth(other)
