"""Figures on external cases, beside scikit-learn and formulas by hand."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from src.evaluate.calibration import Recalibration
from src.evaluate.external import external_figures
from src.evaluate.intervals import PLAIN, interval, jackknife
from src.labels import LABELS

POINTS = {"youden": dict.fromkeys(LABELS, 0.4), "none": dict.fromkeys(LABELS, None)}
Cases = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_cases(n: int, *, intercept: float = 0.0, slope: float = 1.0, seed: int = 0, per_patient: int = 2) -> Cases:
    """Cases whose true probability is expit(intercept + slope logit(p)): targets, probabilities, patients."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.2, (n, len(LABELS)))
    targets = (rng.random(logits.shape) < expit(intercept + slope * logits)).astype(float)
    return targets, expit(logits), np.arange(n) // per_patient


def lookup(frame: pd.DataFrame) -> Callable[..., pd.Series]:
    rows = frame.set_index(["label", "metric", "operating_point"])
    assert rows.index.is_unique
    return lambda metric, label="any", point="": rows.loc[(label, metric, point)]


def test_values_are_those_of_scikit_learn_on_the_known_labels() -> None:
    targets, probabilities, patients = make_cases(120)
    targets[:13, 2] = np.nan
    get = lookup(external_figures(targets, probabilities, patients, POINTS))
    for i, label in enumerate(LABELS):
        known = ~np.isnan(targets[:, i])
        y, p = targets[known, i], probabilities[known, i]
        for metric, function in (
            ("auc", roc_auc_score), ("average_precision", average_precision_score),
            ("brier_score", brier_score_loss), ("log_loss", log_loss),
        ):  # fmt: skip
            assert get(metric, label)["value"] == pytest.approx(function(y, p)), metric
        called = p >= 0.4
        counts = {"tp": (called & (y == 1)).sum(), "fp": (called & (y == 0)).sum()}
        counts |= {"fn": (~called & (y == 1)).sum(), "tn": (~called & (y == 0)).sum()}
        for metric, of, other in (
            ("sensitivity", "tp", "fn"), ("specificity", "tn", "fp"), ("ppv", "tp", "fp"), ("npv", "tn", "fn")
        ):  # fmt: skip
            row = get(metric, label, "youden")
            assert row["value"] == pytest.approx(counts[of] / (counts[of] + counts[other]))
            assert row["low"] < row["value"] < row["high"]
            assert np.isnan(get(metric, label, "none")["value"])
        assert get("prevalence", label)["value"] == pytest.approx(y.mean())
    row = get("auc", LABELS[2])
    assert (row["n"], row["positives"], row["patients"]) == (107, np.nansum(targets[:, 2]), 54)
    assert get("threshold", point="youden")["value"] == 0.4


def test_predictive_values_elsewhere_are_bayes_and_of_any_alone() -> None:
    frame = external_figures(*make_cases(150), POINTS, prevalence=0.02)
    get = lookup(frame)
    sensitivity, specificity = (get(each, point="youden")["value"] for each in ("sensitivity", "specificity"))
    # of 10,000 studies 200 have a bleed
    right, wrong = 200 * sensitivity, 9800 * (1 - specificity)
    row = get("ppv_at_0.02", point="youden")
    assert row["value"] == pytest.approx(right / (right + wrong))
    assert row["low"] < row["value"] < row["high"]
    assert set(frame.loc[frame["metric"].isin(["ppv_at_0.02", "npv_at_0.02"]), "label"]) == {"any"}


def test_calibration_is_that_of_logistic_regression_by_other_means() -> None:
    targets, probabilities, patients = make_cases(300, intercept=-0.7, slope=0.6, seed=3)
    y, p = targets[:, 0], probabilities[:, 0]
    intercept, slope = Recalibration(y, p, patients)(np.ones(150, dtype=np.int64))
    free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(p)[:, None], y)
    assert slope == pytest.approx(free.coef_[0, 0], rel=1e-4)
    fixed = minimize(lambda a: log_loss(y, expit(a[0] + logit(p))), [0.0], method="Nelder-Mead", tol=1e-10)
    assert intercept == pytest.approx(fixed.x[0], abs=1e-4)
    # at the maximum the mean prediction is the prevalence
    assert expit(intercept + logit(p)).mean() == pytest.approx(y.mean(), abs=1e-9)
    # a patient who counts twice is two patients
    weights = np.ones(150, dtype=np.int64)
    weights[:50] = 2
    rows = np.concatenate([np.arange(300), np.arange(100)])
    again = Recalibration(y[rows], p[rows], np.zeros(400, dtype=np.int64))(np.ones(1, dtype=np.int64))
    np.testing.assert_allclose(Recalibration(y, p, patients)(weights), again, atol=1e-9)


@pytest.mark.parametrize(("intercept", "slope"), [(0.0, 1.0), (-1.0, 1.0), (0.5, 0.5), (0.0, 1.8)])
def test_a_known_shift_is_recovered_within_its_interval(intercept: float, slope: float) -> None:
    targets, probabilities, patients = make_cases(2000, intercept=intercept, slope=slope, seed=1)
    targets[:, 1:] = np.nan  # five labels less to compute
    get = lookup(external_figures(targets, probabilities, patients, {}))
    found = get("calibration_slope")
    assert found["value"] == pytest.approx(slope, abs=0.2)
    assert found["low"] < slope < found["high"]
    assert found["high"] - found["low"] < 0.5
    if slope == 1:  # otherwise the intercept at slope 1 is another number
        row = get("calibration_intercept")
        assert row["low"] < intercept < row["high"]


def test_copies_of_cases_are_no_evidence() -> None:
    targets, probabilities, patients = (each[:60] for each in make_cases(60, per_patient=1))
    rows = np.repeat(np.arange(60), 4)
    once = external_figures(targets, probabilities, patients, POINTS, 0.1)
    copied = external_figures(targets[rows], probabilities[rows], patients[rows], POINTS, 0.1)
    pd.testing.assert_frame_equal(once[["value", "low", "high"]], copied[["value", "low", "high"]], rtol=1e-6)


def test_what_is_not_defined_is_nan() -> None:
    targets, probabilities, patients = make_cases(30)
    targets[:, 1] = 0
    targets[:, 2] = probabilities[:, 2] > 0.5  # separated: no slope is the most likely
    targets[:, 3] = np.nan
    frame = external_figures(targets, probabilities, patients, POINTS)
    get = lookup(frame)
    assert LABELS[3] not in set(frame["label"])
    for metric in ("auc", "calibration_slope", "calibration_intercept"):
        assert np.isnan(get(metric, LABELS[1])["value"])
    assert np.isnan(get("calibration_slope", LABELS[2])["value"])
    assert np.isfinite(get("calibration_intercept", LABELS[2])["value"])
    assert get("auc", LABELS[2])["value"] == 1
    assert 0.5 < get("auc", LABELS[2])["low"] < 1
    one = external_figures(targets[:1], probabilities[:1], patients[:1], POINTS)
    assert one["low"].isna().sum() > 0  # one case is no error


def test_an_interval_of_the_slope_covers_it() -> None:
    covered = []
    for seed in range(50):
        targets, probabilities, _ = make_cases(60, slope=0.8, seed=seed, per_patient=1)
        statistic = Recalibration(targets[:, 0], probabilities[:, 0], np.arange(60))
        value, left_out = statistic(np.ones(60, dtype=np.int64)), jackknife(statistic, 60)
        low, high = interval(value, left_out, PLAIN, int(min(targets[:, 0].sum(), 60 - targets[:, 0].sum())))
        covered.append(low[1] <= 0.8 <= high[1])
    assert 0.88 <= np.mean(covered) <= 1
