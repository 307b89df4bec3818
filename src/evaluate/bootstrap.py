"""Confidence intervals from a bootstrap over patients, since slices of a head are not independent observations.

P patients are drawn P times with replacement, each with all their cases, so a resample is a vector of how often each
patient counts: weights (P,). A statistic is a function of these weights; with all weights 1 it gives the value itself.
The same seed gives the same resamples, so the interval of a difference between two models is that of
`resample(one, ...) - resample(other, ...)`.

Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval); Field, Welsh,
"Bootstrapping clustered data", J. R. Stat. Soc. B 69, 2007 (whole clusters are drawn).
"""

from collections.abc import Callable

import numpy as np

from src.progress import progress

Statistic = Callable[[np.ndarray], np.ndarray]  # integer weights (P,) -> an array, always of the same shape

LEVEL = 0.95


def resample(statistic: Statistic, n_patients: int, *, resamples: int, seed: int, desc: str = "") -> np.ndarray:
    """Compute a statistic on R resamples of the patients: (R, ...). With `desc`, progress is shown."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            statistic(np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients))
            for _ in progress(range(resamples), desc=desc, unit="resample", shown=bool(desc))
        ]
    )


def interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of the 95 % percentile interval: (R, ...) -> (...) twice.

    A resample in which a statistic is NaN, such as the AUC of a label that none of its patients has, is left out of the
    interval of that statistic. If the statistic is NaN in all resamples, both ends are NaN.
    """
    columns = resampled.reshape(len(resampled), -1).T
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    ends = [
        np.quantile(each[~np.isnan(each)], tails) if not np.isnan(each).all() else (np.nan,) * 2 for each in columns
    ]
    low, high = np.array(ends).T.reshape(2, *resampled.shape[1:])
    return low, high


class PatientRatios:
    """Ratios of two sums over N slices, such as a mean or a sensitivity: weights (P,) -> (K,), NaN for 0 / 0.

    numerators, denominators: (N, K). patients: (N,), integers from 0 to P - 1, all of which occur.
    """

    def __init__(self, numerators: np.ndarray, denominators: np.ndarray, patients: np.ndarray) -> None:
        # a resample repeats whole patients, so the sums by patient are enough
        self._numerators, self._denominators = (
            np.stack([np.bincount(patients, weights=column) for column in each.T], axis=1)
            for each in (numerators, denominators)
        )

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The ratios with each patient counted as often as `weights` gives."""
        above, below = weights @ self._numerators, weights @ self._denominators
        return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


class Ranking:
    """AUC and average precision of one label: weights (P,) -> (2,), NaN if the counted targets are all 0 or all 1.

    targets: (N,) of 0 and 1. scores: (N,), sorted only once, so that a resample costs just a running sum. patients:
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
        # in a group without patients in the resample, `here` is 0, so its precision does not matter
        precision = found / np.maximum(called, 1)
        return np.array([auc, np.sum(here * precision) / n_positives])


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Sums of the first k values, k from 0: (N,) -> (N + 1,). In integers, which is exact and six times as fast."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums
