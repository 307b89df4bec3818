import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit, logit

from src.ensemble.smooth import CHOICES_MM, choose_sigma, smooth
from src.evaluate.score import weighted_log_loss
from src.files.places import Places


def _slowly(probabilities: np.ndarray, places: Places, sigma: float) -> np.ndarray:
    """What smoothing is, slice by slice."""
    result = probabilities.copy()
    for i in range(len(probabilities)):
        if np.isnan(places.z[i]):
            continue
        with_it = np.flatnonzero((places.series == places.series[i]) & ~np.isnan(places.z))
        weights = np.exp(-0.5 * ((places.z[with_it] - places.z[i]) / sigma) ** 2)
        weights[np.abs(places.z[with_it] - places.z[i]) > 4 * sigma] = 0
        result[i] = expit(np.average(logit(probabilities[with_it]), axis=0, weights=weights))
    return result


@given(st.integers(0, 2**32), st.floats(0.5, 20))
def test_equals_the_definition(seed: int, sigma: float) -> None:
    # series of any length in no order, uneven gaps, slices at the same place, of some nobody knows where they lie
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    z = rng.choice([0.0, 1.1, 4.2, 7.4], n).cumsum()
    z[rng.random(n) < 0.1] = np.nan
    order = rng.permutation(n)
    places = Places(rng.integers(0, 4, n)[order], z[order])
    probabilities = rng.uniform(0.01, 0.99, (n, 6))
    np.testing.assert_allclose(smooth(probabilities, places, sigma), _slowly(probabilities, places, sigma), atol=1e-12)


def test_equals_scipy_on_even_gaps() -> None:
    probabilities = np.random.default_rng(0).uniform(0.01, 0.99, (40, 6))
    smoothed = smooth(probabilities, Places(np.zeros(40, dtype=int), np.arange(40) * 5.0), 7.5)
    expected = expit(gaussian_filter1d(logit(probabilities), 1.5, axis=0, truncate=4))
    np.testing.assert_allclose(smoothed[6:-6], expected[6:-6], rtol=1e-6)


def test_zero_and_unknown_places_change_nothing() -> None:
    probabilities = np.random.default_rng(0).uniform(size=(5, 6))
    assert smooth(probabilities, Places(np.zeros(5, dtype=int), np.arange(5.0)), 0) is probabilities
    np.testing.assert_array_equal(smooth(probabilities, Places.unknown(5), 5), probabilities)


def test_auto_has_the_least_loss() -> None:
    # a bleed spans slices, what the network says of each is noisy
    rng = np.random.default_rng(0)
    series = np.repeat(np.arange(60), 20)
    targets = np.repeat(rng.random((300, 6)) < 0.3, 4, axis=0).astype(np.uint8)
    probabilities = expit((targets * 2.0 - 1) * 1.5 + rng.normal(0, 1.5, targets.shape))
    places = Places(series, np.tile(np.arange(20) * 5.0, 60))
    sigma = choose_sigma(probabilities, targets, places)
    losses = [weighted_log_loss(targets, smooth(probabilities, places, each)) for each in CHOICES_MM]
    assert sigma == CHOICES_MM[int(np.argmin(losses))]
    assert 2 <= sigma <= 13
    shuffled = Places(series, rng.permuted(places.z.reshape(60, 20), axis=1).ravel())
    apart = Places(np.arange(len(series)), places.z)
    assert choose_sigma(probabilities, targets, apart) == 0  # nothing to learn from
    assert weighted_log_loss(targets, smooth(probabilities, places, sigma)) < weighted_log_loss(
        targets, smooth(probabilities, shuffled, sigma)
    )
