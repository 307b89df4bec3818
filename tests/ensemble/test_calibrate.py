import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from src.ensemble.calibrate import CALIBRATIONS, Platt, fit_platt, fit_steps, fit_temperatures
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
    targets[:, 3] = 1
    np.testing.assert_array_equal(fit_temperatures(probabilities, targets).values[2:4], 1)
    lines = fit_platt(probabilities, targets)
    np.testing.assert_array_equal(lines.slopes[2:4], 1)
    np.testing.assert_array_equal(lines.intercepts[2:4], 0)
    assert (lines.slopes[[0, 1, 4, 5]] != 1).all()


def test_lines_equal_a_logistic_regression_on_platts_targets() -> None:
    probabilities, targets = _overconfident()
    found = fit_platt(probabilities, targets)
    for j in range(6):
        target, x = targets[:, j], logit(probabilities[:, [j]].clip(1e-6, 1 - 1e-6))
        counts = np.bincount(target)
        aims = np.where(target == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
        # each slice once as a positive and once as a negative, weighted
        model = LogisticRegression(C=np.inf, tol=1e-10).fit(
            np.tile(x, (2, 1)), np.repeat([1, 0], len(x)), sample_weight=np.append(aims, 1 - aims)
        )
        assert found.slopes[j] == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert found.intercepts[j] == pytest.approx(model.intercept_[0], abs=1e-4)
    np.testing.assert_allclose(1 / found.slopes, [1, 2, 3, 0.5, 1, 1], rtol=0.2)
    np.testing.assert_allclose(found.intercepts, 0, atol=0.2)


def test_an_intercept_corrects_a_prevalence_that_a_temperature_cannot() -> None:
    probabilities, targets = _overconfident()
    probabilities = expit(logit(probabilities) / 2)  # none so extreme that it is clipped
    shifted = expit(logit(probabilities) + 2)  # every bleed seems seven times as likely
    lines, temperatures = fit_platt(shifted, targets), fit_temperatures(shifted, targets)
    np.testing.assert_allclose(lines(shifted), fit_platt(probabilities, targets)(probabilities), atol=1e-5)
    np.testing.assert_allclose(lines(shifted).mean(axis=0), targets.mean(axis=0), atol=2e-3)
    loss, too_large = (log_loss_by_label(targets, each(shifted)) for each in (lines, temperatures))
    assert (loss < too_large - 0.03).all()


def test_a_label_that_is_separated_or_reversed_has_a_rising_line() -> None:
    x = np.linspace(-3, 3, 60)
    probabilities = np.tile(expit(x)[:, None], 6)
    targets = np.zeros((60, 6), dtype=np.uint8)
    targets[:, :3] = x[:, None] > 1  # separated
    targets[:, 3:] = x[:, None] < 1  # reversed
    lines = fit_platt(probabilities, targets)
    assert (lines.slopes[:3] > 1).all()
    assert (lines.slopes[:3] < 20).all()  # not at its bound
    np.testing.assert_array_equal(lines.slopes[3:], 1 / 20)
    calibrated = lines(probabilities)
    assert (np.diff(calibrated, axis=0) > 0).all()
    assert ((calibrated > 0) & (calibrated < 1)).all()
    flat = fit_platt(np.full((60, 6), 0.2), targets)
    np.testing.assert_array_equal(flat.slopes, 1)  # any slope does the same
    np.testing.assert_allclose(flat(np.full((1, 6), 0.2))[0], targets.mean(axis=0), atol=0.02)


def test_a_line_of_known_numbers() -> None:
    found = Platt(np.full(6, 2.0), np.full(6, -1.0))(np.array([[0.0, 0.1, 0.5, 0.9, 1.0, 0.2]]))
    odds = np.array([1e-6 / (1 - 1e-6), 1 / 9, 1, 9, 1e6 - 1, 1 / 4]) ** 2 / np.e
    np.testing.assert_allclose(found[0], odds / (1 + odds), rtol=1e-9)


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
