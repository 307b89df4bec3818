import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from src.evaluate.calibration import calibration_error_by_label, squared_errors


def _example(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.random((n, 6)) < 0.3).astype(np.uint8), rng.random((n, 6)).astype(np.float32)


def test_brier_score_equals_scikit_learn() -> None:
    targets, probabilities = _example(0)
    expected = [brier_score_loss(targets[:, j], probabilities[:, j]) for j in range(6)]
    np.testing.assert_allclose(squared_errors(targets, probabilities).mean(axis=0), expected, rtol=1e-6)


@given(st.integers(0, 1000))
def test_calibration_error_equals_a_loop_over_the_bins(seed: int) -> None:
    targets, probabilities = _example(seed)
    expected = 0.0
    for b in range(15):
        inside = (probabilities[:, 2] > b / 15) & (probabilities[:, 2] <= (b + 1) / 15)
        if inside.any():
            gap = abs(targets[inside, 2].mean() - probabilities[inside, 2].mean(dtype=np.float64))
            expected += inside.mean() * gap
    assert calibration_error_by_label(targets, probabilities)[2] == pytest.approx(expected, rel=1e-6)


def test_calibration_error_of_a_constant() -> None:
    targets = np.zeros((10, 6), dtype=np.uint8)
    targets[:5] = 1
    np.testing.assert_allclose(calibration_error_by_label(targets, np.full((10, 6), 0.3)), 0.2)
    np.testing.assert_allclose(calibration_error_by_label(targets, np.full((10, 6), 0.5)), 0, atol=1e-12)


def test_errors_of_one_bin_cancel_and_of_two_do_not() -> None:
    # 1/15 is the upper end of the first bin; what is just above it is in the second
    targets = np.array([[1] * 6, [0] * 6], dtype=np.uint8)
    for high, expected in ((1 / 15, (1 - 1 / 15) / 2), (0.0667, (1 + 0.0667) / 2)):
        found = calibration_error_by_label(targets, np.array([[0.0] * 6, [high] * 6]))
        np.testing.assert_allclose(found, expected)


def test_certainty_that_is_right_or_wrong() -> None:
    targets = np.array([[0] * 6, [1] * 6], dtype=np.uint8)
    np.testing.assert_array_equal(calibration_error_by_label(targets, targets), 0)
    np.testing.assert_array_equal(calibration_error_by_label(targets, 1 - targets), 1)
