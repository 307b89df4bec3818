import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.evaluate.out_of_fold import check_out_of_fold, fingerprint_folds, read_truth
from src.files.layout import Layout
from src.files.predictions import Predictions
from src.files.provenance import Provenance
from src.files.tables import write_table
from src.labels import LABELS

PROVENANCE = Provenance(conf="net", fold=1, epoch=2, checkpoint="c", split="valid", slices="s", tta="Identity")


def _predictions(ids: pd.Index, provenance: Provenance | None, folds: str | None = None) -> Predictions:
    return Predictions(Path("p.parquet"), pd.Series(ids), np.full((len(ids), 6), 0.5), provenance, folds)


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
    check_out_of_fold([_predictions(own, PROVENANCE), _predictions(truth.ids, None)], truth)
    other = truth.ids[truth.folds == 0][0]
    with pytest.raises(
        UserError, match=f"1 slices are not in fold 1, so its network was trained on them: {other}"
    ) as seen:
        check_out_of_fold([_predictions(own.append(pd.Index([other])), PROVENANCE)], truth)
    assert seen.value.step == "train"
    with pytest.raises(UserError, match=r"p.parquet is of the test set; expected out-of-fold"):
        check_out_of_fold([_predictions(own, replace(PROVENANCE, split="test"))], truth)


def test_tables_that_disagree_are_named(preprocessed: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    other.folds.parent.mkdir()
    shutil.copy(preprocessed.folds, other.folds)
    table = pd.read_parquet(preprocessed.table("train"))
    folds = pd.read_parquet(preprocessed.folds)
    write_table(table[table["ID"] != folds["ID"][3]], other.table("train"))
    with pytest.raises(UserError, match=f"has 1 slices that .*train.parquet lacks: {folds['ID'][3]}$") as lacking:
        read_truth(other)
    assert lacking.value.step == "preprocess"


def test_a_bags_file_is_of_the_folds_that_there_are(preprocessed: Layout) -> None:
    truth = read_truth(preprocessed)
    folds = pd.read_parquet(preprocessed.folds)
    assert truth.folds_fingerprint == fingerprint_folds(folds.sample(frac=1, random_state=0))  # whatever the order
    assert truth.of(truth.ids[:3]).folds_fingerprint == truth.folds_fingerprint  # of all folds
    check_out_of_fold([_predictions(truth.ids[:3], None, truth.folds_fingerprint)], truth)
    for other in (
        folds.assign(fold=(folds["fold"] + 1) % 5),
        folds.assign(PatientID=folds["PatientID"].iloc[::-1].to_numpy()),
        folds.iloc[1:],
    ):
        with pytest.raises(UserError, match=r"p.parquet was made with other folds than there are now") as refused:
            check_out_of_fold([_predictions(truth.ids[:3], None, fingerprint_folds(other))], truth)
        assert refused.value.step == "ensemble"
