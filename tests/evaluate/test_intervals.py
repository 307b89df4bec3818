from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t
from sklearn.metrics import average_precision_score, roc_auc_score

from src.evaluate.intervals import (
    GROUPS,
    LOG,
    LOGIT,
    PLAIN,
    PatientRatios,
    Ranking,
    effective_number,
    interval,
    jackknife,
    proportion_interval,
    standard_error,
    sums_by_patient,
    wilson,
)

PATIENTS = 15
SQUARE = norm.ppf(0.975) ** 2


def _example(seed: int, decimals: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and patients of 120 slices; few decimals make ties."""
    rng = np.random.default_rng(seed)
    patients = np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=120 - PATIENTS)])
    targets = (rng.random(120) < 0.2).astype(np.uint8)
    return targets, np.round(rng.random(120) * 0.6 + 0.3 * targets, decimals).astype(np.float32), patients


def _draw(seed: int) -> np.ndarray:
    """How often each patient counts; about a third of them not at all."""
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


def test_without_the_labels_only_patient_there_is_no_ranking() -> None:
    _, scores, patients = _example(0)
    weights = np.ones(PATIENTS, dtype=int)
    weights[3] = 0
    assert np.isnan(Ranking((patients == 3).astype(int), scores, patients)(weights)).all()


def test_a_ratio_of_nothing_is_nan() -> None:
    ratio = PatientRatios(np.zeros((2, 1)), np.array([[0], [1]]), np.array([0, 1]))
    np.testing.assert_array_equal(ratio(np.array([2, 0])), [np.nan])


def _mean(values: np.ndarray, patients: np.ndarray) -> PatientRatios:
    return PatientRatios(values[:, None], np.ones((len(values), 1)), patients)


def _whole(statistic: Callable[[np.ndarray], np.ndarray], n_patients: int) -> np.ndarray:
    return statistic(np.ones(n_patients, dtype=np.int64))


def test_each_patient_is_left_out_once() -> None:
    for n_patients in (1, 7, GROUPS, GROUPS + 1, 1003):
        left_out = 1 - jackknife(lambda weights: weights, n_patients)
        assert left_out.shape == (min(n_patients, GROUPS), n_patients)
        np.testing.assert_array_equal(left_out.sum(axis=0), 1)
        sizes = left_out.sum(axis=1)
        assert sizes.max() - sizes.min() <= 1
    # the order of patients has no period that the groups share
    assert np.std([np.flatnonzero(group)[0] % GROUPS for group in left_out]) > 20


@given(st.integers(0, 1000))
def test_the_interval_of_a_mean_is_students(seed: int) -> None:
    values = np.random.default_rng(seed).exponential(size=PATIENTS)
    mean = _mean(values, np.arange(PATIENTS))
    left_out = jackknife(mean, PATIENTS)
    error = values.std(ddof=1) / np.sqrt(PATIENTS)
    assert standard_error(left_out)[0] == pytest.approx(error, rel=1e-9)
    expected = student_t.interval(0.95, PATIENTS - 1, loc=values.mean(), scale=error)
    np.testing.assert_allclose(np.ravel(interval(_whole(mean, PATIENTS), left_out, PLAIN, PATIENTS)), expected)
    ends = np.ravel(interval(_whole(mean, PATIENTS), left_out, LOG, PATIENTS))
    reach = student_t.ppf(0.975, PATIENTS - 1) * error / values.mean()
    np.testing.assert_allclose(np.log(ends / values.mean()), [-reach, reach])


@given(st.integers(0, 1000))
def test_the_error_of_an_auc_is_delongs(seed: int) -> None:
    # one slice a patient; DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988, from the pairs of both kinds
    rng = np.random.default_rng(seed)
    positive, negative = np.round(rng.normal(1, 1, 12), 1), np.round(rng.normal(0, 1, 20), 1)
    order = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
    targets, scores = np.repeat([1, 0], [12, 20]), np.append(positive, negative)
    left_out = jackknife(Ranking(targets, scores, np.arange(32)), 32)[:, 0]
    # the jackknife divides by one patient less, and multiplies by 31 / 32
    expected = 31 / 32 * (np.var(order.mean(axis=1), ddof=1) / 11 + np.var(order.mean(axis=0), ddof=1) / 19)
    assert standard_error(left_out) ** 2 == pytest.approx(expected, rel=1e-9)
    auc = order.mean()
    if 0 < auc < 1:
        low, high = interval(auc, left_out, LOGIT, 12)
        reach = student_t.ppf(0.975, 11) * np.sqrt(expected) / (auc * (1 - auc))
        np.testing.assert_allclose(logit([low, high]), logit(auc) + np.array([-reach, reach]))


def test_many_patients_are_left_out_in_groups() -> None:
    values = np.random.default_rng(0).exponential(size=5050)  # groups of 25 and of 26
    left_out = jackknife(_mean(values, np.arange(5050)), 5050)
    assert len(left_out) == GROUPS
    assert standard_error(left_out)[0] == pytest.approx(values.std() / np.sqrt(5050), rel=0.15)
    low, high = interval(values.mean(), left_out[:, 0], PLAIN, 5050)
    assert high - low == pytest.approx(2 * student_t.ppf(0.975, GROUPS - 1) * standard_error(left_out)[0])


def test_repeating_each_slice_changes_nothing() -> None:
    # a scanner that stores every slice twice adds no evidence
    targets, scores, patients = _example(1)
    ends = []
    for n in (1, 2):
        repeated = [np.repeat(each, n) for each in (targets, scores, patients)]
        ranking = Ranking(*repeated)
        counts = np.tile(sums_by_patient((repeated[0] == 1)[:, None], repeated[2]), 2)
        left_out = jackknife(ranking, PATIENTS)
        ends.append(proportion_interval(_whole(ranking, PATIENTS), left_out, counts))
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_slices_that_err_together_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), 30)
    together, apart = rng.normal(size=200)[patients], rng.normal(size=6000)
    means = PatientRatios(np.stack([together, apart], axis=1), np.ones((6000, 2)), patients)
    low, high = interval(_whole(means, 200), jackknife(means, 200), PLAIN, 200)
    # closed form: 1.97 standard errors on either side, of as many independent values as there are
    np.testing.assert_allclose(high - low, 2 * 1.97 / np.sqrt([200, 6000]), rtol=0.15)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, patients = np.random.default_rng(0), np.repeat(np.arange(20), 10)
    held = []
    for _ in range(400):
        values = rng.normal(size=20)[patients] + rng.normal(size=200)  # their true mean is 0
        found = rng.random(200) < np.clip(0.9 + 0.1 * rng.normal(size=20), 0, 1)[patients]  # a rate of 0.87
        mean, rate = _mean(values, patients), _mean(found, patients)
        ends = interval(_whole(mean, 20), jackknife(mean, 20), PLAIN, 20)
        of_rate = proportion_interval(_whole(rate, 20), jackknife(rate, 20), np.full((20, 1), 10))
        truths = 0, np.clip(0.9 + 0.1 * norm.ppf((np.arange(1000) + 0.5) / 1000), 0, 1).mean()
        pairs = zip((ends, of_rate), truths, strict=True)
        held.append([low[0] <= truth <= high[0] for (low, high), truth in pairs])
    # two Monte Carlo errors are 0.022; of slices as if independent 0.55, of the percentile bootstrap 0.92
    assert (np.abs(np.mean(held, axis=0) - 0.95) < 0.022).all()


def test_the_difference_of_two_models_is_paired() -> None:
    targets, scores, patients = _example(2)
    one, other = (Ranking(targets, each, patients) for each in (scores, scores + np.float32(0.05) * targets))

    def difference(weights: np.ndarray) -> np.ndarray:
        return other(weights) - one(weights)

    low, high = interval(_whole(difference, PATIENTS), jackknife(difference, PATIENTS), PLAIN, PATIENTS)
    alone = np.subtract(*interval(_whole(one, PATIENTS), jackknife(one, PATIENTS), PLAIN, PATIENTS)[::-1])
    assert (high - low < alone / 2).all()
    assert (low > 0).all()


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilsons_interval_is_scipys(k: int, more: int) -> None:
    n = k + more
    for hits in (k, n):
        expected = binomtest(hits, n).proportion_ci(0.95, "wilson")
        found = wilson(np.array([hits / n]), np.array([n]))
        np.testing.assert_allclose(np.ravel(found), [expected.low, expected.high], atol=1e-12)


def test_patients_with_equal_cases_count_each() -> None:
    counts = np.array([[4, 1, 0, 0, 7], [4, 3, 0, 0, 0], [4, 0, 0, 2, 0]])
    np.testing.assert_allclose(effective_number(counts), [3, 16 / 10, 0, 1, 1])


def test_a_sensitivity_of_one_is_not_sure() -> None:
    # ten patients with a bleed in one to ten slices, all found; and five without, who say nothing
    slices = np.append(np.arange(1, 11), np.zeros(5))
    patients = np.repeat(np.arange(15), 10)
    positive = np.tile(np.arange(10), 15) < slices[patients]
    called = np.stack([positive, ~positive & positive], axis=1)
    rates = PatientRatios(called, np.stack([positive] * 2, axis=1), patients)
    value = _whole(rates, 15)
    np.testing.assert_array_equal(value, [1, 0])
    low, high = proportion_interval(value, jackknife(rates, 15), np.stack([slices] * 2, axis=1))
    effective = 55**2 / 385
    np.testing.assert_allclose(low, [effective / (effective + SQUARE), 0], rtol=1e-12)
    np.testing.assert_allclose(high, [1, SQUARE / (effective + SQUARE)], rtol=1e-12)
    assert (low[1], high[0]) == (0, 1)


def test_equal_patients_are_not_sure_either() -> None:
    patients = np.repeat(np.arange(9), 3)
    rate = _mean(np.tile([1, 1, 0], 9), patients)
    low, high = proportion_interval(_whole(rate, 9), jackknife(rate, 9), np.full((9, 1), 3))
    expected = binomtest(6, 9).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high])


def test_one_patient_with_the_label_says_little() -> None:
    targets, scores, patients = _example(0)
    targets = ((patients == 3) & (np.arange(120) % 2 == 0)).astype(int)
    ranking, counts = Ranking(targets, scores, patients), sums_by_patient(targets[:, None], patients)
    value = _whole(ranking, PATIENTS)
    low, high = proportion_interval(value, jackknife(ranking, PATIENTS), np.tile(counts, 2))
    np.testing.assert_allclose([low, high], wilson(value, np.ones(2)))
    assert (high - low > 0.5).all()


def test_what_is_not_defined_has_no_interval() -> None:
    nothing = np.full(2, np.nan)
    for ends in (
        proportion_interval(nothing, np.full((5, 2), np.nan), np.zeros((5, 2))),
        interval(nothing, np.full((5, 2), np.nan), LOG, 5),
        interval(np.array([0.3, 0.4]), np.full((1, 2), np.nan), PLAIN, 1),  # one patient alone
        interval(np.array([0.0, 1.0]), np.array([[0.0, 1.0]] * 5), LOGIT, 5),
    ):
        assert np.isnan(ends).all()


@given(st.integers(0, 10_000))
def test_an_interval_stays_in_range_around_its_value(seed: int) -> None:
    targets, scores, patients = _example(seed)
    counts = np.tile(sums_by_patient((targets == 1)[:, None], patients), 2)
    ranking = Ranking(targets, scores, patients)
    value = _whole(ranking, PATIENTS)
    low, high = proportion_interval(value, jackknife(ranking, PATIENTS), counts)
    assert ((low >= 0) & (low < value) & (value < high) & (high <= 1)).all()
