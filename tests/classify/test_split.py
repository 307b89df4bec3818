from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.classify.split import read_split
from src.errors import UserError
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table, write_table
from src.labels import LABELS


def test_validation_slices_cover_the_store_once_and_share_no_patient(preprocessed: Layout) -> None:
    patients = read_table(preprocessed.table("train"), [], made_by="").set_index("ID")["PatientID"]
    validated: list[str] = []
    for fold in range(5):
        training, validation = read_split(preprocessed, fold)
        validated += validation.ids
        assert not set(patients[training.ids]) & set(patients[validation.ids])
        assert len(training.ids) + len(validation.ids) == len(ImageStore(preprocessed.store("train")).index)
    assert sorted(validated) == sorted(ImageStore(preprocessed.store("train")).index["ID"])


def test_targets_are_the_tables(preprocessed: Layout) -> None:
    training, _ = read_split(preprocessed, 0)
    labels = read_table(preprocessed.table("train"), [], made_by="").set_index("ID")[list(LABELS)]
    np.testing.assert_array_equal(training.targets, labels.loc[training.ids])
    assert training.targets.any()


def test_mistakes_are_named(preprocessed: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no fold 7; .* has 0, 1, 2, 3, 4"):
        read_split(preprocessed, 7)
    with pytest.raises(UserError, match=r"folds.parquet is missing; bin/preprocess.sh makes it"):
        read_split(Layout(tmp_path), 0)
    other = Layout(tmp_path)
    write_table(read_table(preprocessed.table("train"), [], made_by=""), other.table("train"))
    other.store("train").symlink_to(preprocessed.store("train"))
    folds = read_table(preprocessed.folds, [], made_by="")
    stranger = pd.DataFrame({"ID": ["ID_fff"], "PatientID": ["P"], "fold": [0]})
    write_table(pd.concat([folds, stranger]), other.folds)
    with pytest.raises(UserError, match=r"has 1 slices that .* lacks: ID_fff"):
        read_split(other, 0)
