"""Confidence intervals over patients, since slices of a head are not independent observations.

A statistic is a function of how often each patient counts: weights (P,) -> an array. With all weights 1 it gives the
value itself. The jackknife leaves out each patient in turn, with all their cases, and so finds the standard error
without a random number; the interval is the value and a multiple of that error to both sides, by Student's t, on a
scale on which the statistic may take any value. It was chosen by simulation, over the percentile and the Bayesian
bootstrap and BCa: docs/benchmarks.md.

Sources: Miller, "The jackknife: a review", Biometrika 61, 1974; Kott, "The delete-a-group jackknife", J. Off. Stat. 17,
2001 (groups, where patients are many); Pepe, "The statistical evaluation of medical tests", 2003, chapter 5 (the logit
of an AUC); Mercaldo, Lau, Zhou, Stat. Med. 26, 2007 (of predictive values).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student_t

from src.progress import progress

Statistic = Callable[[np.ndarray], np.ndarray]  # integer weights (P,) -> an array, always of the same shape

LEVEL = 0.95
GROUPS = 200  # more patients than this are left out in groups: the error of the standard error is then 5 %


@dataclass(frozen=True)
class Scale:
    """Where a statistic may take any value: a function, its inverse and its slope."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


LOGIT = Scale(logit, expit, lambda value: 1 / (value * (1 - value)))  # for proportions, which stay between 0 and 1
LOG = Scale(np.log, np.exp, lambda value: 1 / value)  # for losses, which stay above 0
PLAIN = Scale(np.asarray, np.asarray, np.ones_like)  # for differences


def jackknife(statistic: Statistic, n_patients: int, *, desc: str = "") -> np.ndarray:
    """Compute a statistic without each patient in turn: (P, ...). With `desc`, progress is shown.

    More than 200 patients are left out in 200 groups, always the same ones: (200, ...).
    """
    groups = np.arange(n_patients)
    if n_patients > GROUPS:
        # shuffled, since the order of patients may have a period
        groups = np.random.default_rng(0).permutation(n_patients) % GROUPS
    left_out = progress(range(min(n_patients, GROUPS)), desc=desc, unit="patient", shown=bool(desc))
    return np.stack([statistic((groups != group).astype(np.int64)) for group in left_out])


def standard_error(left_out: np.ndarray) -> np.ndarray:
    """The jackknife's standard error of a statistic: (G, ...) without each group -> (...).

    NaN if it is not defined without one of the groups, such as the AUC of a label that one patient alone has.
    """
    groups = len(left_out)
    return np.asarray(np.sqrt((groups - 1) / groups * np.sum((left_out - left_out.mean(axis=0)) ** 2, axis=0)))


def interval(
    value: np.ndarray, left_out: np.ndarray, scale: Scale, n_patients: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of a 95 % interval: values (...) and those of `jackknife` (G, ...) -> (...) twice.

    n_patients: how many patients a value depends on; few give wide intervals, because the error that few patients show
    may be far off. Both ends are NaN where the value or its error is not defined, or the value is at the scale's end.
    """
    value = np.asarray(value, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        reach = student_t.ppf((1 + LEVEL) / 2, np.minimum(n_patients, len(left_out)) - 1)
        reach = reach * standard_error(left_out) * scale.slope(value)
        return scale.back(scale.to(value) - reach), scale.back(scale.to(value) + reach)


def proportion_interval(value: np.ndarray, left_out: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of proportions, such as a sensitivity or an AUC: (K,), (G, K) -> (K,) twice.

    counts: (P, K), of each patient the cases that a proportion depends on. Where leaving out patients changes nothing,
    as for a sensitivity of 1, or leaves no cases, the jackknife shows no error, and the interval is Wilson's. It is for
    as many patients as there effectively are, not slices: such data do not show how alike the slices of a patient are,
    and that they are perfectly so is the assumption that promises least.
    """
    low, high = interval(value, left_out, LOGIT, (counts > 0).sum(axis=0))
    unknown = np.isnan(low) | ~(standard_error(left_out) > 1e-9)  # which is rounding
    return tuple(  # type: ignore[return-value]
        np.where(unknown, *pair) for pair in zip(wilson(value, effective_number(counts)), (low, high), strict=True)
    )


def wilson(value: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of a 95 % interval of a proportion of n independent observations; NaN for none.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    square = norm.ppf((1 + LEVEL) / 2) ** 2
    n = np.where(n > 0, n, np.nan)
    middle = (value + square / (2 * n)) / (1 + square / n)
    reach = np.sqrt(square * (value * (1 - value) + square / (4 * n)) / n) / (1 + square / n)
    # the ends of 0 and of 1 except for rounding
    return np.where(value == 0, 0 * reach, middle - reach), np.where(value == 1, 1 + 0 * reach, middle + reach)


def effective_number(counts: np.ndarray) -> np.ndarray:
    """As many patients with equally many cases are worth as much: cases by patient (P, K) -> (K,), 0 for no cases.

    Source: Kish, "Survey sampling", 1965, section 11.7.
    """
    squares = (counts.astype(np.float64) ** 2).sum(axis=0)
    return np.divide(counts.sum(axis=0, dtype=np.float64) ** 2, squares, out=np.zeros(len(squares)), where=squares > 0)


def sums_by_patient(columns: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Sum over the cases of each patient: (N, K) and patients (N,) from 0 to P - 1, all of which occur -> (P, K)."""
    return np.stack([np.bincount(patients, weights=column) for column in columns.T], axis=1)


class PatientRatios:
    """Ratios of two sums over N slices, such as a mean or a sensitivity: weights (P,) -> (K,), NaN for 0 / 0.

    numerators, denominators: (N, K). patients: (N,), integers from 0 to P - 1, all of which occur.
    """

    def __init__(self, numerators: np.ndarray, denominators: np.ndarray, patients: np.ndarray) -> None:
        # whole patients count, so their sums are enough
        self._numerators, self._denominators = (sums_by_patient(each, patients) for each in (numerators, denominators))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The ratios with each patient counted as often as `weights` gives."""
        above, below = weights @ self._numerators, weights @ self._denominators
        return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


class Ranking:
    """AUC and average precision of one label: weights (P,) -> (2,), NaN if the counted targets are all 0 or all 1.

    targets: (N,) of 0 and 1. scores: (N,), sorted only once, so that other weights cost just a running sum. patients:
    (N,), integers from 0 to P - 1. For the AUC a pair with equal scores counts as half in order; for the average
    precision equal scores share one threshold. Both are as in scikit-learn, and the results are equal except for
    rounding.
    """

    def __init__(self, targets: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> None:
        order = np.argsort(-scores, kind="stable")
        positive = targets[order] == 1
        self._patients = patients[order]
        self._of_positives = self._patients[positive]
        stops = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))  # ends of groups of equal scores
        starts = np.append(0, stops[:-1])
        positives = _running_sum(positive)
        # a group without positives adds nothing to either sum, and most groups have none
        holds = positives[stops] > positives[starts]
        self._starts, self._stops, self._positive_stops = starts[holds], stops[holds], positives[stops[holds]]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(AUC, average precision) with each patient counted as often as `weights` gives."""
        everyone, positives = _running_sum(weights[self._patients]), _running_sum(weights[self._of_positives])
        n_positives, n_negatives = positives[-1], everyone[-1] - positives[-1]
        if n_positives == 0 or n_negatives == 0:
            return np.full(2, np.nan)
        above, found, called = everyone[self._starts], positives[self._positive_stops], everyone[self._stops]
        here = np.diff(found, prepend=0)  # positives of each group
        tied = called - above - here  # negatives of each group
        passed = above - (found - here) + tied / 2  # negatives that rank above its positives, with ties as half
        auc = 1 - np.sum(here * passed) / (float(n_positives) * float(n_negatives))
        # in a group whose patients do not count, `here` is 0, so its precision does not matter
        precision = found / np.maximum(called, 1)
        return np.array([auc, np.sum(here * precision) / n_positives])


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Sums of the first k values, k from 0: (N,) -> (N + 1,). In integers, which is exact and six times as fast."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums
