import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from src.evaluate.calibration import calibration_error_by_label
from src.evaluate.curves import GRID, Curves, predictive_curves, ranking_curves, reliability
from src.evaluate.study import Cases
from src.evaluate.summary import PREVALENCES, summarise
from src.labels import LABELS


def _cases(n: int = 300, patients: int = 40, *, ties: bool = False) -> Cases:
    rng = np.random.default_rng(0)
    of = np.sort(np.append(np.arange(patients), rng.integers(patients, size=n - patients)))
    targets = (rng.random((n, 6)) < 0.3).astype(np.uint8)
    scores = 1 / (1 + np.exp(-(2.0 * targets - 1 + rng.normal(size=(n, 6)))))
    return Cases(targets, np.round(scores, 1) if ties else scores, of, of % 5)


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties: bool) -> None:
    cases = _cases(ties=ties)
    target, score = cases.targets[:, 0], cases.probabilities[:, 0]
    roc, pr = Curves(target, score, cases.patients)(np.ones(cases.n_patients, dtype=np.int64))
    fall_out, recall, _ = roc_curve(target, score, drop_intermediate=False)
    top = np.array([recall[fall_out == each].max() for each in np.unique(fall_out)])
    np.testing.assert_allclose(roc, np.interp(GRID, np.unique(fall_out), top), atol=1e-12)
    precision, recalls, _ = precision_recall_curve(target, score)
    for x, y in zip(GRID[1:], pr[1:], strict=True):
        reached = np.flatnonzero(recalls >= x - 1e-12)
        assert y == pytest.approx(precision[reached[-1]] if reached[-1] < len(precision) - 1 else precision[-2])


def test_weights_count_patients_as_often() -> None:
    cases = _cases()
    weights = np.random.default_rng(1).integers(0, 3, cases.n_patients)
    rows = np.repeat(np.arange(len(cases.patients)), weights[cases.patients])
    target, score = cases.targets[:, 1], cases.probabilities[:, 1]
    found = Curves(target, score, cases.patients)(weights)
    again = Curves(target[rows], score[rows], cases.patients[rows])(np.ones(cases.n_patients, dtype=np.int64))
    np.testing.assert_allclose(found, again, atol=1e-12)


def test_many_cases_are_thinned_to_a_curve_that_is_nearly_the_same() -> None:
    cases = _cases(20_000, 500)
    target, score = cases.targets[:, 0], cases.probabilities[:, 0]
    curves = Curves(target, score, cases.patients)
    assert curves._n_bins <= 501
    roc, _ = curves(np.ones(cases.n_patients, dtype=np.int64))
    fall_out, recall, _ = roc_curve(target, score)
    np.testing.assert_allclose(roc, np.interp(GRID, fall_out, recall), atol=0.006)


def test_bands_hold_their_curve_and_labels_of_one_kind_have_none() -> None:
    cases = _cases()
    cases.targets[:, 5] = 0
    frame = ranking_curves(cases)
    assert set(frame["label"]) == {*LABELS[:5]}
    assert (frame["low"] <= frame["y"] + 1e-9).all()
    assert (frame["y"] <= frame["high"] + 1e-9).all()
    assert frame[["low", "high"]].stack().between(-1e-9, 1 + 1e-9).all()


def test_reliability_is_that_of_scikit_learn() -> None:
    cases = _cases()
    frame = reliability(cases)
    for j, label in enumerate(LABELS):
        rows = frame[frame["label"] == label]
        fraction, mean = calibration_curve(cases.targets[:, j], cases.probabilities[:, j], n_bins=15)
        np.testing.assert_allclose(rows["fraction"], fraction)
        np.testing.assert_allclose(rows["probability"], mean)
        error = (rows["n"] * (rows["fraction"] - rows["probability"]).abs()).sum() / len(cases.targets)
        assert error == pytest.approx(calibration_error_by_label(cases.targets, cases.probabilities)[j])
        assert rows["positives"].sum() == cases.targets[:, j].sum()


def test_predictive_values_are_those_of_the_summary() -> None:
    cases = _cases()
    found = predictive_curves(cases, PREVALENCES).set_index(["prevalence", "label"])
    expected = summarise("study", cases).set_index(["metric", "label"])
    for prevalence in PREVALENCES:
        for label in LABELS:
            for name in ("ppv", "npv"):
                row, of = found.loc[(prevalence, label)], expected.loc[(f"{name}_at_{prevalence:.2f}", label)]
                assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(
                    of[["value", "low", "high"]].tolist(), rel=1e-9
                )


def test_one_fold_has_no_predictive_values() -> None:
    cases = _cases()
    frame = predictive_curves(Cases(cases.targets, cases.probabilities, cases.patients, 0 * cases.folds))
    assert isinstance(frame, pd.DataFrame)
    assert frame[["ppv", "npv"]].isna().all(axis=None)
