import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from src.ensemble.calibrate import CALIBRATIONS, fit_steps, fit_temperatures
from src.evaluate.score import log_loss_by_label


def _overconfident(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 1.5, (n, 6))
    return expit(truth * [1, 2, 3, 0.5, 1, 1]), (rng.random((n, 6)) < expit(truth)).astype(np.uint8)


def test_temperatures_equal_a_logistic_regression_without_intercept() -> None:
    probabilities, targets = _overconfident()
    found = fit_temperatures(probabilities, targets)
    for j in range(6):
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8)
        slope = model.fit(logit(probabilities[:, [j]]), targets[:, j]).coef_[0, 0]
        assert 1 / found.values[j] == pytest.approx(slope, rel=1e-3)
    np.testing.assert_allclose(found.values, [1, 2, 3, 0.5, 1, 1], rtol=0.2)
    assert (log_loss_by_label(targets, found(probabilities)) <= log_loss_by_label(targets, probabilities) + 1e-9).all()


def test_a_label_that_is_always_the_same_stays() -> None:
    probabilities, targets = _overconfident()
    targets[:, 2] = 0
    assert fit_temperatures(probabilities, targets).values[2] == 1


def test_steps_equal_pooled_means() -> None:
    probabilities, targets = _overconfident(300)
    calibrated = fit_steps(probabilities, targets)(probabilities)
    for j in range(6):
        order = np.argsort(probabilities[:, j])
        expected = isotonic_regression(targets[order, j].astype(float))
        counts = np.array([(expected == value).sum() for value in expected])
        sure = (expected < 1 / (counts + 2)) | (expected > 1 - 1 / (counts + 2))
        np.testing.assert_allclose(calibrated[order, j][~sure], expected[~sure], atol=1e-9)
        assert sure.any()
        assert (np.diff(calibrated[order, j]) >= 0).all()
        assert (calibrated[order, j][expected == 0] <= 1 / (counts[expected == 0] + 2) + 1e-12).all()
        assert (calibrated > 0).all()
        assert (calibrated < 1).all()


def test_no_step_is_surer_than_the_data_allow() -> None:
    # every slice above 0.5 has the label and none below: zeros and ones, which one exception makes infinitely wrong
    probabilities = np.tile(np.linspace(0.1, 0.9, 98)[:, None], 6)
    steps = fit_steps(probabilities, (probabilities > 0.5).astype(np.uint8))
    found = steps(np.array([[0.0] * 6, [1.0] * 6]))
    np.testing.assert_allclose(found, [[1 / 51] * 6, [50 / 51] * 6])  # 49 slices on each step


def test_a_small_step_beside_a_large_one_stays_in_order() -> None:
    # two slices alone at the bottom would get 1/4, more than the 1/10 of the forty above them
    probabilities = np.repeat(np.append([0.1, 0.2], np.linspace(0.3, 0.4, 40))[:, None], 6, axis=1)
    targets = np.zeros((42, 6), dtype=np.uint8)
    targets[[5, 15, 25, 41]] = 1
    calibrated = fit_steps(probabilities, targets)(probabilities)
    assert (np.diff(calibrated, axis=0) >= 0).all()
    assert 0 < calibrated[0, 0] <= calibrated[2, 0] < 0.25


def test_none_is_none() -> None:
    probabilities, targets = _overconfident(10)
    assert CALIBRATIONS["none"](probabilities, targets)(probabilities) is probabilities
