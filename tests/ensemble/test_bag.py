import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.ensemble.bag import bag, out_of_fold_members
from src.ensemble.bag import test_set_members as as_members
from src.errors import UserError
from src.files.predictions import Predictions, read_predictions

Make = Callable[..., Predictions]


def test_the_mean_by_id_whatever_the_order(make: Make) -> None:
    a = make(["ID_1", "ID_2"], [[0.1] * 6, [0.2] * 6], fold=0)
    b = make(["ID_2", "ID_1"], [[0.6] * 6, [0.5] * 6], fold=1)
    bagged = bag(as_members([a, b]))
    assert bagged.ids.tolist() == ["ID_1", "ID_2"]
    np.testing.assert_allclose(bagged.probabilities, [[0.3] * 6, [0.4] * 6], rtol=1e-6)


def test_members_weigh_the_same_however_many_folds_they_have(make: Make) -> None:
    files = [make(["ID_1"], value, conf="x", fold=fold) for fold, value in enumerate((0.1, 0.2, 0.3))]
    files.append(make(["ID_1"], 0.8, conf="y"))
    np.testing.assert_allclose(bag(as_members(files)).probabilities, 0.5, rtol=1e-6)
    with pytest.raises(UserError, match=r"given more than once: .*y_fold0"):
        as_members([*files, files[-1]])


def test_columns_stay_labels(make: Make) -> None:
    values = np.arange(6)[None] / 10
    np.testing.assert_allclose(bag(as_members([make(["ID_1"], values)])).probabilities, values, rtol=1e-6)


def test_differing_slices_are_named(make: Make) -> None:
    a = make(["ID_1", "ID_2"], 0.5, fold=0)
    with pytest.raises(UserError, match=r"fold1_test_epoch2.parquet has 1 slices that .*fold0.* lacks: ID_3"):
        bag(as_members([a, make(["ID_1", "ID_2", "ID_3"], 0.5, fold=1)]))
    with pytest.raises(UserError, match=r"fold1_test_epoch2.parquet lacks 1 slices that .*fold0.* has: ID_2"):
        bag(as_members([a, make(["ID_1"], 0.5, fold=1)]))


def test_folds_of_a_member_are_put_together(make: Make) -> None:
    files = [
        make([f"ID_{fold}a", f"ID_{fold}b"], fold / 10, fold=fold, epoch=epoch, conf=conf, split="valid")
        for conf in ("x", "y")
        for epoch in (2, 3)
        for fold in (0, 1)
    ]
    members = out_of_fold_members(files)
    assert [member.name for member in members] == ["x epoch 2", "x epoch 3", "y epoch 2", "y epoch 3"]
    assert members[0].ids.tolist() == ["ID_0a", "ID_0b", "ID_1a", "ID_1b"]
    np.testing.assert_allclose(members[0].probabilities[:, 0], [0, 0, 0.1, 0.1], rtol=1e-6)


def test_test_files_and_overlapping_folds_are_not_out_of_fold(make: Make) -> None:
    with pytest.raises(UserError, match="does not record that it is out of fold"):
        out_of_fold_members([make(["ID_1"], 0.5, split="test")])
    overlapping = [make(["ID_1"], 0.5, fold=fold, split="valid") for fold in (0, 1)]
    with pytest.raises(UserError, match="net epoch 2: more than one fold predicts the same slices: ID_1") as error:
        out_of_fold_members(overlapping)
    assert error.value.step == "predict"


def test_copies_and_other_splits_are_no_members(make: Make, tmp_path: Path) -> None:
    one = make(["ID_1"], 0.5)
    copy = shutil.copy(one.path, tmp_path / "copy.parquet")
    with pytest.raises(UserError, match="another file given is by the same network"):
        as_members([one, read_predictions(Path(copy))])
    with pytest.raises(UserError, match="is out of fold; expected predictions of the test set"):
        as_members([make(["ID_1"], 0.5, split="valid")])
