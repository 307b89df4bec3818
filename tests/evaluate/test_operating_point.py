import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_score

from src.evaluate.operating_point import predictive_values, thresholds_from_other_folds, youden_threshold
from src.evaluate.study import Cases
from src.labels import LABELS


@given(st.integers(0, 1000))
def test_no_other_threshold_has_a_larger_index(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.append(rng.random(58) < 0.3, [True, False]).astype(int)
    probabilities = np.round(0.3 * targets + 0.7 * rng.random(60), 2)

    def index(threshold: float) -> float:
        called = probabilities >= threshold
        return float(called[targets == 1].mean() + (~called)[targets == 0].mean() - 1)

    found = youden_threshold(targets, probabilities)
    assert found in probabilities
    assert index(found) == pytest.approx(max(index(threshold) for threshold in probabilities))


def test_where_the_two_part() -> None:
    assert youden_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])) == 0.6


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_choose(value: int) -> None:
    assert np.isnan(youden_threshold(np.full(4, value), np.linspace(0, 1, 4)))


def _two_folds() -> Cases:
    """Bleeds start at 0.2 in fold 0, and at 0.7 in fold 1."""
    ranks = np.tile(np.linspace(0, 1, 11), 2)[:, None]
    folds = np.repeat([0, 1], 11)
    targets = (ranks >= np.where(folds == 0, 0.2, 0.7)[:, None]).astype(np.uint8)
    return Cases(np.repeat(targets, 6, axis=1), np.repeat(ranks, 6, axis=1), np.arange(22), folds)


def test_a_fold_is_scored_at_the_others_threshold() -> None:
    found = thresholds_from_other_folds(_two_folds())
    assert found.columns.tolist() == list(LABELS)
    np.testing.assert_allclose(found.loc[0], 0.7)
    np.testing.assert_allclose(found.loc[1], 0.2)


def test_a_folds_own_cases_do_not_move_its_threshold() -> None:
    cases, before = _two_folds(), thresholds_from_other_folds(_two_folds())
    cases.targets[cases.folds == 0] = 1 - cases.targets[cases.folds == 0]
    after = thresholds_from_other_folds(cases)
    np.testing.assert_array_equal(after.loc[0], before.loc[0])
    assert (after.loc[1] != before.loc[1]).all()


def test_one_fold_has_no_others() -> None:
    cases = _two_folds()
    found = thresholds_from_other_folds(Cases(cases.targets, cases.probabilities, cases.patients, np.full(22, 3)))
    assert found.index.tolist() == [3]
    assert found.isna().all(axis=None)


@pytest.mark.parametrize("prevalence", [0.02, 0.05, 0.10, 0.15])
def test_predictive_values_count_heads_in_a_population(prevalence: float) -> None:
    ill = round(100_000 * prevalence)
    well = 100_000 - ill
    found, cleared = 0.9 * ill, 0.8 * well
    ppv, npv = predictive_values(np.array([0.9]), np.array([0.8]), prevalence)
    assert ppv[0] == pytest.approx(found / (found + well - cleared))
    assert npv[0] == pytest.approx(cleared / (cleared + ill - found))


def test_at_its_own_prevalence_the_ppv_is_the_precision() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random(500) < 0.2
    called = rng.random(500) < np.where(targets, 0.7, 0.1)
    rates = np.array([called[targets].mean()]), np.array([(~called)[~targets].mean()])
    ppv, npv = predictive_values(*rates, float(targets.mean()))
    assert ppv[0] == pytest.approx(precision_score(targets, called))
    assert npv[0] == pytest.approx(precision_score(~targets, ~called))


def test_answers_that_are_never_given_have_no_value() -> None:
    ppv, npv = predictive_values(np.array([0.0, 1.0, np.nan]), np.array([1.0, 0.0, np.nan]), 0.1)
    np.testing.assert_allclose(ppv, [np.nan, 0.1, np.nan])
    np.testing.assert_allclose(npv, [0.9, np.nan, np.nan])
