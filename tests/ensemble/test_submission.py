from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from src.ensemble.bag import bag
from src.ensemble.bag import test_set_members as as_members
from src.ensemble.submission import check_submission, make_submission, read_sample, read_submission, score_submission
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


def test_what_does_not_cover_the_sample_is_named(make: Make, tmp_path: Path) -> None:
    bagged = bag(as_members([make(["ID_1", "ID_2"], 0.5)]))
    with pytest.raises(UserError, match="1 slices of the sample submission have no prediction: ID_3"):
        make_submission(_sample(["ID_1", "ID_2", "ID_3"]), bagged)
    with pytest.raises(UserError, match="1 predicted slices are not in the sample submission: ID_2"):
        make_submission(_sample(["ID_1"]), bagged)
    _sample(["ID_1", "ID_1", "ID_2"]).to_csv(tmp_path / "sample.csv", index=False)
    with pytest.raises(UserError, match=r"sample.csv has 6 rows more than once: ID_1_any, ID_1_epidural"):
        read_sample(tmp_path / "sample.csv")


def test_a_submission_as_it_should_be(tmp_path: Path) -> None:
    sample = _sample(["ID_1", "ID_2"])
    sample.assign(Label=0.25).to_csv(tmp_path / "s.csv", index=False)
    submission = read_submission(tmp_path / "s.csv")
    assert submission["Label"].dtype == np.float64
    check_submission(submission, sample, "s.csv")


def _changed(frame: pd.DataFrame, row: int, label: float) -> pd.DataFrame:
    frame = frame.copy()
    frame.loc[row, "Label"] = label
    return frame


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.iloc[1:], "s.csv lacks 1 rows of the sample submission: ID_1_any"),
        (lambda frame: pd.concat([frame, _sample(["ID_3"])]), "has 6 rows that the sample submission lacks: ID_3_any"),
        (lambda frame: pd.concat([frame, frame[3:5]]), "s.csv has 2 rows more than once: ID_1_intraventricular"),
        (
            lambda frame: frame.iloc[[0, 2, 1, *range(3, 12)]],
            "in another order, from row 3 on: ID_1_intraparenchymal, expected ID_1_epidural",
        ),
        (lambda frame: _changed(frame, 2, 1.01), r"1 labels are not in \[0, 1\]: ID_1_intraparenchymal has 1.01"),
        (lambda frame: _changed(frame, 2, -1e-9), r"1 labels are not in \[0, 1\]"),
        (lambda frame: _changed(frame, 2, np.nan), r"1 labels are not in \[0, 1\]: .* has nan"),
    ],
)
def test_what_is_wrong_with_a_submission_is_named(
    change: Callable[[pd.DataFrame], pd.DataFrame], expected: str
) -> None:
    sample = _sample(["ID_1", "ID_2"])
    with pytest.raises(UserError, match=expected):
        check_submission(change(sample), sample, "s.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID,Label\nID_1_any,x\nID_1_epidural,\n", "2 labels are no numbers: ID_1_any has x, ID_1_epidural has nan"),
        ("ID,Label,Extra\nID_1_any,1,2\n", "the columns are ID, Label, Extra; expected ID, Label"),
        ("Id,Label\nID_1_any,1\n", "lacks the columns ID"),
        ("", "is not a readable CSV file"),
    ],
)
def test_files_that_are_no_submission_are_named(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        read_submission(path)


def test_scores_against_the_truth() -> None:
    rng = np.random.default_rng(0)
    ids = [f"ID_{i:x}" for i in range(50)]
    targets, probabilities = (rng.random((50, 6)) < 0.4).astype(np.uint8), rng.random((50, 6))
    submission = _sample(ids).assign(Label=probabilities.ravel()).sample(frac=1, random_state=0)
    truth = pd.DataFrame(targets, columns=list(LABELS)).assign(ID=ids).sample(frac=1, random_state=1)
    scores = score_submission(submission, truth)
    assert scores.index.tolist() == ["weighted", *LABELS]
    assert scores.loc["weighted", "log loss"] == pytest.approx(weighted_log_loss(targets, probabilities))
    for j, label in enumerate(LABELS):
        assert scores.loc[label, "AUC"] == pytest.approx(roc_auc_score(targets[:, j], probabilities[:, j]))
        expected = average_precision_score(targets[:, j], probabilities[:, j])
        assert scores.loc[label, "average precision"] == pytest.approx(expected)
        assert scores.loc[label, "positives"] == targets[:, j].sum()
    with pytest.raises(UserError, match="the truth lacks 1 slices of the submission: ID_0"):
        score_submission(submission, truth[truth["ID"] != "ID_0"])
    with pytest.raises(UserError, match="the truth has 1 slices that the submission lacks"):
        score_submission(submission[~submission["ID"].str.startswith("ID_0_")], truth)
