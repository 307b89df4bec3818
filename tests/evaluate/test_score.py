import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from src.evaluate.score import (
    auc_by_label,
    average_precision_by_label,
    constant_prior,
    log_loss_by_label,
    weighted_log_loss,
)
from src.labels import WEIGHTS


def _example(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.random((n, 6)) < 0.3).astype(np.uint8), rng.uniform(1e-5, 1 - 1e-5, (n, 6))  # nothing to be clipped


@given(st.integers(0, 1000))
def test_equals_scikit_learn(seed: int) -> None:
    targets, probabilities = _example(seed, n=50)
    expected = [log_loss(targets[:, j], probabilities[:, j], labels=[0, 1]) for j in range(6)]
    np.testing.assert_allclose(log_loss_by_label(targets, probabilities), expected, rtol=1e-9)
    assert weighted_log_loss(targets, probabilities) == pytest.approx(np.average(expected, weights=WEIGHTS), rel=1e-9)


def test_equals_one_weighted_log_loss_over_all_rows() -> None:
    # the competition's own wording: one log loss over six rows a slice, each with its label's weight
    targets, probabilities = _example(0)
    weights = np.tile(WEIGHTS, len(targets))
    flat = log_loss(targets.ravel(), probabilities.ravel(), sample_weight=weights)
    assert weighted_log_loss(targets, probabilities) == pytest.approx(flat, rel=1e-9)


def test_all_halves_are_the_log_of_two() -> None:
    targets, _ = _example(0)
    assert weighted_log_loss(targets, np.full(targets.shape, 0.5)) == pytest.approx(np.log(2))


def test_the_competitions_prior() -> None:
    # prevalences of stage 1; the constant-prior log loss that they amount to is known: 0.2320
    prevalence = np.array([0.1440, 0.0041, 0.0483, 0.0352, 0.0476, 0.0630])
    targets = (np.arange(10_000)[:, None] < 10_000 * prevalence).astype(np.uint8)
    assert weighted_log_loss(targets, constant_prior(targets)) == pytest.approx(0.2320, abs=5e-4)


def test_auc_counts_pairs_in_the_right_order() -> None:
    targets, probabilities = _example(1)
    targets[:, 3] = 0  # a label that never occurs has none
    auc = auc_by_label(targets, probabilities)
    assert np.isnan(auc[3])
    for j in (0, 5):
        positive, negative = (probabilities[targets[:, j] == value, j] for value in (1, 0))
        assert auc[j] == pytest.approx(np.mean(positive[:, None] > negative[None]))


def test_average_precision_sums_precision_over_the_ranks_of_bleeds() -> None:
    targets, probabilities = _example(1)
    targets[:, 3] = 1
    found = average_precision_by_label(targets, probabilities)
    assert np.isnan(found[3])
    for j in (0, 5):
        ranked = targets[np.argsort(-probabilities[:, j]), j]
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        assert found[j] == pytest.approx(precision[ranked == 1].mean())


def test_certain_mistakes_are_finite() -> None:
    targets = np.zeros((1, 6), dtype=np.uint8)
    assert weighted_log_loss(targets, np.ones((1, 6))) == pytest.approx(-np.log(1e-6), rel=1e-6)


@pytest.mark.parametrize(
    "probabilities", [np.full((2, 6), np.nan), np.full((2, 6), 1.1), np.full((2, 5), 0.5), np.full((3, 6), 0.5)]
)
def test_refuses_what_is_no_probability(probabilities: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected two|finite and in"):
        weighted_log_loss(np.zeros((2, 6)), probabilities)
