from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from src.ensemble.bag import bag
from src.ensemble.bag import test_members as as_members
from src.ensemble.make_submission import make_submission, score_out_of_fold
from src.errors import UserError
from src.evaluate.score import weighted_log_loss
from src.files.predictions import Predictions
from src.labels import LABELS, row_ids

Make = Callable[..., Predictions]


def _sample(ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"ID": row_ids(pd.Series(ids)), "Label": 0.5})


def test_the_samples_rows_in_its_order(make: Make) -> None:
    values = np.arange(12).reshape(2, 6) / 12
    sample = _sample(["ID_2", "ID_1"]).sample(frac=1, random_state=0)
    submission = make_submission(sample, bag(as_members([make(["ID_1", "ID_2"], values)])))
    assert submission.columns.tolist() == ["ID", "Label"]
    assert submission["ID"].tolist() == sample["ID"].tolist()
    found = submission.set_index("ID")["Label"]
    for i, slice_id in enumerate(["ID_1", "ID_2"]):
        for j, label in enumerate(LABELS):
            assert found[f"{slice_id}_{label}"] == pytest.approx(max(values[i, j], 1e-6), rel=1e-6)


def test_clipped(make: Make) -> None:
    submission = make_submission(_sample(["ID_1"]), bag(as_members([make(["ID_1"], [[0, 1, 0.5, 0, 1, 0.5]])])))
    assert submission["Label"].tolist() == [1e-6, 1 - 1e-6, 0.5, 1e-6, 1 - 1e-6, 0.5]


def test_what_does_not_cover_the_sample_is_named(make: Make) -> None:
    bagged = bag(as_members([make(["ID_1", "ID_2"], 0.5)]))
    with pytest.raises(UserError, match="1 slices of the sample submission have no prediction: ID_3"):
        make_submission(_sample(["ID_1", "ID_2", "ID_3"]), bagged)
    with pytest.raises(UserError, match="1 predicted slices are not in the sample submission: ID_2"):
        make_submission(_sample(["ID_1"]), bagged)
    with pytest.raises(UserError, match="6 rows more than once: ID_1_any, ID_1_epidural"):
        make_submission(_sample(["ID_1", "ID_1", "ID_2"]), bagged)


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame((rng.random((40, 6)) < 0.3).astype(np.uint8), columns=list(LABELS))
    return frame.assign(ID=[f"ID_{i:x}" for i in range(40)])


def test_scores_are_those_of_each_member_classifier_bag_and_prior(make: Make, table: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    ids, targets = table["ID"].tolist(), table[list(LABELS)].to_numpy()
    values = {(conf, epoch): rng.random((40, 6)).astype(np.float32) for conf in "xy" for epoch in (2, 3)}
    files = [
        make(ids[half], value[half], conf=conf, epoch=epoch, fold=fold, split="valid")
        for (conf, epoch), value in values.items()
        for fold, half in enumerate((slice(0, 15), slice(15, 40)))
    ]
    scores, scored = score_out_of_fold(files, table)
    assert scores.index.tolist() == [
        "x epoch 2",
        "x epoch 3",
        "y epoch 2",
        "y epoch 3",
        "x",
        "y",
        "bag",
        "constant prior",
    ]
    assert scores.columns.tolist() == ["weighted", *LABELS]
    assert scored == 40
    expected = {f"{conf} epoch {epoch}": value for (conf, epoch), value in values.items()}
    expected |= {conf: (values[conf, 2].astype(float) + values[conf, 3]) / 2 for conf in "xy"}
    expected["bag"] = sum(value.astype(float) for value in values.values()) / 4
    expected["constant prior"] = np.tile(targets.mean(axis=0), (40, 1))
    for name, probabilities in expected.items():
        assert scores.loc[name, "weighted"] == pytest.approx(weighted_log_loss(targets, probabilities), rel=1e-6)


def test_members_are_scored_on_what_all_of_them_predict(make: Make, table: pd.DataFrame) -> None:
    ids = table["ID"].tolist()
    files = [
        make(ids[:30], 0.4, conf="x", split="valid"),
        make(ids[10:], 0.2, conf="y", split="valid"),
    ]
    scores, scored = score_out_of_fold(files, table)
    assert scored == 20
    targets = table[list(LABELS)].to_numpy()[10:30]
    assert scores.loc["x", "weighted"] == pytest.approx(weighted_log_loss(targets, np.full((20, 6), 0.4)), rel=1e-6)
    with pytest.raises(UserError, match="no slice in common"):
        score_out_of_fold([files[0], make(ids[35:], 0.2, conf="y", split="valid")], table)


def test_slices_without_labels_are_named(make: Make, table: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="1 out-of-fold slices are not in the training table: ID_ff"):
        score_out_of_fold([make(["ID_1", "ID_ff"], 0.5, split="valid")], table)
