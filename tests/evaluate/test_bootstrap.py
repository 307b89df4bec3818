import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from src.evaluate.bootstrap import PatientRatios, Ranking, interval, resample

PATIENTS = 15


def _example(seed: int, decimals: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and patients of 120 slices; few decimals make ties."""
    rng = np.random.default_rng(seed)
    patients = np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=120 - PATIENTS)])
    targets = (rng.random(120) < 0.2).astype(np.uint8)
    return targets, np.round(rng.random(120) * 0.6 + 0.3 * targets, decimals).astype(np.float32), patients


def _draw(seed: int) -> np.ndarray:
    """How often each patient counts in one resample; about a third of them not at all."""
    rng = np.random.default_rng(seed)
    return np.bincount(rng.integers(PATIENTS, size=PATIENTS), minlength=PATIENTS)


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 2, 6]))
def test_ranking_equals_scikit_learn_with_patients_as_weights(seed: int, decimals: int) -> None:
    targets, scores, patients = _example(seed, decimals)
    weights = _draw(seed)
    counts = weights[patients]
    if not 0 < np.sum(targets * counts) < np.sum(counts):
        return
    expected = [f(targets, scores, sample_weight=counts) for f in (roc_auc_score, average_precision_score)]
    np.testing.assert_allclose(Ranking(targets, scores, patients)(weights), expected, rtol=1e-12)


@given(st.integers(0, 1000))
def test_weights_are_what_repeating_the_rows_gives(seed: int) -> None:
    targets, scores, patients = _example(seed)
    weights = _draw(seed)
    drawn = np.repeat(np.arange(PATIENTS), weights)
    rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
    auc, precision = Ranking(targets, scores, patients)(weights)
    if 0 < targets[rows].sum() < len(rows):
        assert auc == pytest.approx(roc_auc_score(targets[rows], scores[rows]), rel=1e-12)
        assert precision == pytest.approx(average_precision_score(targets[rows], scores[rows]), rel=1e-12)
    found = PatientRatios(np.stack([scores, targets * (scores > 0.5)], axis=1),
                          np.stack([np.ones(120), targets], axis=1), patients)(weights)  # fmt: skip
    assert found[0] == pytest.approx(scores[rows].mean(dtype=np.float64), rel=1e-12)
    if targets[rows].any():
        assert found[1] == pytest.approx(np.mean(scores[rows][targets[rows] == 1] > 0.5))


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_that_is_all_one_value_has_no_ranking(value: int) -> None:
    _, scores, patients = _example(0)
    assert np.isnan(Ranking(np.full(120, value), scores, patients)(np.ones(PATIENTS, dtype=int))).all()


def test_a_resample_without_the_labels_only_patient_has_no_ranking() -> None:
    _, scores, patients = _example(0)
    weights = np.ones(PATIENTS, dtype=int)
    weights[3] = 0
    assert np.isnan(Ranking((patients == 3).astype(int), scores, patients)(weights)).all()


def test_a_ratio_of_nothing_is_nan() -> None:
    ratio = PatientRatios(np.zeros((2, 1)), np.array([[0], [1]]), np.array([0, 1]))
    np.testing.assert_array_equal(ratio(np.array([2, 0])), [np.nan])


def test_a_resample_draws_as_many_patients_as_there_are() -> None:
    drawn = resample(lambda weights: weights, 50, resamples=300, seed=0)
    assert drawn.shape == (300, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.var(axis=0).mean() == pytest.approx(1 - 1 / 50, rel=0.05)  # of a multinomial count
    np.testing.assert_array_equal(drawn, resample(lambda weights: weights, 50, resamples=300, seed=0))
    assert (drawn != resample(lambda weights: weights, 50, resamples=300, seed=1)).any()


def test_repeating_each_slice_changes_nothing() -> None:
    # a scanner that stores every slice twice adds no evidence; drawing slices would narrow the intervals
    targets, scores, patients = _example(1)
    once, twice = (
        resample(
            Ranking(np.repeat(targets, n), np.repeat(scores, n), np.repeat(patients, n)),
            PATIENTS, resamples=200, seed=0,
        )
        for n in (1, 2)
    )  # fmt: skip
    np.testing.assert_allclose(interval(twice), interval(once), rtol=1e-12)


def test_slices_that_err_together_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), 30)
    together, apart = rng.normal(size=200)[patients], rng.normal(size=6000)
    means = PatientRatios(np.stack([together, apart], axis=1), np.ones((6000, 2)), patients)
    low, high = interval(resample(means, 200, resamples=400, seed=0))
    # closed form: 1.96 standard errors on either side, of as many independent values as there are
    np.testing.assert_allclose(high - low, 2 * 1.96 / np.sqrt([200, 6000]), rtol=0.15)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 20)
    held = 0
    for experiment in range(200):
        values = rng.normal(size=60)[patients] + rng.normal(size=1200)  # their true mean is 0
        mean = PatientRatios(values[:, None], np.ones((1200, 1)), patients)
        low, high = interval(resample(mean, 60, resamples=200, seed=experiment))
        held += int(low[0] <= 0 <= high[0])
    assert 0.90 <= held / 200 <= 0.98  # slices drawn instead of patients: about 0.6


def test_the_difference_of_two_models_is_paired() -> None:
    targets, scores, patients = _example(2)
    better = scores + np.float32(0.05) * targets
    one, other = (
        resample(Ranking(targets, each, patients), PATIENTS, resamples=300, seed=0) for each in (scores, better)
    )
    low, high = interval(other - one)
    alone = np.subtract(*interval(one)[::-1])
    assert (high - low < alone / 2).all()
    assert (low >= 0).all()


def test_an_interval_leaves_out_what_is_not_defined() -> None:
    values = np.arange(101.0)
    resampled = np.stack([values, np.where(values < 51, values, np.nan), np.full(101, np.nan)], axis=1)
    low, high = interval(resampled)
    np.testing.assert_allclose(low, [2.5, 1.25, np.nan])
    np.testing.assert_allclose(high, [97.5, 48.75, np.nan])
    assert interval(resampled.reshape(101, 3, 1))[0].shape == (3, 1)
