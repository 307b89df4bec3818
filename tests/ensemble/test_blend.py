import itertools

import numpy as np
import pytest
from scipy.special import expit, logit

from src.ensemble.blend import BLENDS, Blend, fit_weights
from src.evaluate.score import weighted_log_loss
from src.labels import WEIGHTS

RNG = np.random.default_rng(0)


def _members(count: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Members that see the truth through noise of their own, the first one best."""
    truth = RNG.normal(-1, 1.5, (n, 6))
    targets = (RNG.random((n, 6)) < expit(truth)).astype(np.uint8)
    noise = np.array([0.5, 1.0, 1.5, 3.0])[:count, None, None]
    return expit(truth + noise * RNG.normal(size=(count, n, 6))), targets


def test_means() -> None:
    probabilities, targets = _members(3)
    np.testing.assert_allclose(BLENDS["mean"](probabilities, targets)(probabilities), probabilities.mean(axis=0))
    odds = np.exp(logit(probabilities).mean(axis=0))
    np.testing.assert_allclose(BLENDS["logit-mean"](probabilities, targets)(probabilities), odds / (1 + odds))


def test_certain_members_have_finite_logits() -> None:
    blended = Blend(np.array([0.5, 0.5]), of_logits=True)(np.stack([np.zeros((1, 6)), np.full((1, 6), 0.5)]))
    np.testing.assert_allclose(blended, expit(logit(1e-6) / 2))


def test_weights_have_the_least_loss_of_all() -> None:
    probabilities, targets = _members(3)
    weights = fit_weights(probabilities, targets)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    least = weighted_log_loss(targets, Blend(weights)(probabilities))
    grid = [np.array([a, b, 1 - a - b]) for a, b in itertools.product(np.linspace(0, 1, 41), repeat=2) if a + b <= 1]
    losses = [weighted_log_loss(targets, Blend(each)(probabilities)) for each in grid]
    assert least <= min(losses) + 1e-7
    assert np.abs(grid[int(np.argmin(losses))] - weights).max() < 0.04


def test_the_labels_weights_count() -> None:
    # one member is right of `any`, the other of all else: how much each gets is the metric's choice
    targets = np.ones((100, 6))
    good, bad = 0.9, 0.6
    probabilities = np.full((2, 100, 6), bad)
    probabilities[0, :, 0], probabilities[1, :, 1:] = good, good
    fraction = 2 / sum(WEIGHTS)  # of `any`
    found = fit_weights(probabilities, targets)[0]
    # d/dw of fraction * log(bad + w (good - bad)) + (1 - fraction) * log(good - w (good - bad)) is 0
    d = good - bad
    assert found == pytest.approx(np.clip((fraction * good - (1 - fraction) * bad) / d, 0, 1), abs=1e-4)


def test_a_member_that_only_harms_gets_nothing() -> None:
    probabilities, targets = _members(2)
    right = np.where(targets == 1, probabilities[0], 1 - probabilities[0]) / 2  # nowhere as good as the other
    probabilities[1] = np.where(targets == 1, right, 1 - right)
    weights = fit_weights(probabilities, targets)
    np.testing.assert_allclose(weights, [1, 0], atol=1e-4)


def test_copies_and_a_single_member() -> None:
    probabilities, targets = _members(1)
    np.testing.assert_allclose(fit_weights(probabilities, targets), [1])
    copies = np.concatenate([probabilities, probabilities])
    np.testing.assert_allclose(Blend(fit_weights(copies, targets))(copies), probabilities[0])


def test_certain_members_stay_probabilities() -> None:
    for count in range(1, 30):
        weights = np.random.default_rng(count).random(count)
        certain = np.ones((count, 1, 6))
        assert Blend(weights / weights.sum())(certain).max() <= 1
        assert Blend(np.full(count, 1 / count))(certain).max() <= 1
