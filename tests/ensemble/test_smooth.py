import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit, logit

from src.ensemble.smooth import CHOICES_MM, choose_sigma, smooth
from src.evaluate.score import weighted_log_loss
from src.files.slice_positions import SlicePositions


def _slowly(probabilities: np.ndarray, positions: SlicePositions, sigma: float) -> np.ndarray:
    """What smoothing is, slice by slice."""
    result = probabilities.copy()
    for i in range(len(probabilities)):
        if np.isnan(positions.z[i]):
            continue
        with_it = np.flatnonzero((positions.series == positions.series[i]) & ~np.isnan(positions.z))
        weights = np.exp(-0.5 * ((positions.z[with_it] - positions.z[i]) / sigma) ** 2)
        weights[np.abs(positions.z[with_it] - positions.z[i]) > 4 * sigma] = 0
        result[i] = expit(np.average(logit(probabilities[with_it]), axis=0, weights=weights))
    return result


@given(st.integers(0, 2**32), st.floats(0.5, 20))
def test_equals_the_definition(seed: int, sigma: float) -> None:
    # series of any length in no order, uneven gaps, slices at the same position, some at an unknown one
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    z = rng.choice([0.0, 1.1, 4.2, 7.4], n).cumsum()
    z[rng.random(n) < 0.1] = np.nan
    order = rng.permutation(n)
    positions = SlicePositions(rng.integers(0, 4, n)[order], z[order])
    probabilities = rng.uniform(0.01, 0.99, (n, 6))
    expected = _slowly(probabilities, positions, sigma)
    np.testing.assert_allclose(smooth(probabilities, positions, sigma), expected, atol=1e-12)


def test_equals_scipy_on_even_gaps() -> None:
    probabilities = np.random.default_rng(0).uniform(0.01, 0.99, (40, 6))
    smoothed = smooth(probabilities, SlicePositions(np.zeros(40, dtype=int), np.arange(40) * 5.0), 7.5)
    expected = expit(gaussian_filter1d(logit(probabilities), 1.5, axis=0, truncate=4))
    np.testing.assert_allclose(smoothed[6:-6], expected[6:-6], rtol=1e-6)


def test_zero_and_unknown_positions_change_nothing() -> None:
    probabilities = np.random.default_rng(0).uniform(size=(5, 6))
    assert smooth(probabilities, SlicePositions(np.zeros(5, dtype=int), np.arange(5.0)), 0) is probabilities
    np.testing.assert_array_equal(smooth(probabilities, SlicePositions.unknown(5), 5), probabilities)


def test_auto_has_the_least_loss() -> None:
    # a bleed spans slices, what the network says of each is noisy
    rng = np.random.default_rng(0)
    series = np.repeat(np.arange(60), 20)
    targets = np.repeat(rng.random((300, 6)) < 0.3, 4, axis=0).astype(np.uint8)
    probabilities = expit((targets * 2.0 - 1) * 1.5 + rng.normal(0, 1.5, targets.shape))
    positions = SlicePositions(series, np.tile(np.arange(20) * 5.0, 60))
    sigma = choose_sigma(probabilities, targets, positions)
    losses = [weighted_log_loss(targets, smooth(probabilities, positions, each)) for each in CHOICES_MM]
    assert sigma == CHOICES_MM[int(np.argmin(losses))]
    assert 2 <= sigma <= 13
    shuffled = SlicePositions(series, rng.permuted(positions.z.reshape(60, 20), axis=1).ravel())
    apart = SlicePositions(np.arange(len(series)), positions.z)
    assert choose_sigma(probabilities, targets, apart) == 0  # nothing to learn from
    assert weighted_log_loss(targets, smooth(probabilities, positions, sigma)) < weighted_log_loss(
        targets, smooth(probabilities, shuffled, sigma)
    )
