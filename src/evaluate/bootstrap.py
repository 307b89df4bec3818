"""Confidence intervals from a bootstrap over patients: the slices of a head are no independent observations.

P patients are drawn P times with replacement, each with all that is known of them, so a resample is a vector of how
often each patient counts: weights (P,). A statistic is a function of these weights; on ones it gives the value itself.
The same seed gives the same resamples: the interval of a difference between two models is that of
`resample(one, ...) - resample(other, ...)`.

Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (the percentile interval); Field, Welsh,
"Bootstrapping clustered data", J. R. Stat. Soc. B 69, 2007 (whole clusters are drawn).
"""

from collections.abc import Callable

import numpy as np

from src.progress import progress

Statistic = Callable[[np.ndarray], np.ndarray]  # weights (P,) of integers -> an array of any one shape

LEVEL = 0.95


def resample(statistic: Statistic, n_patients: int, *, resamples: int, seed: int, desc: str = "") -> np.ndarray:
    """A statistic of each of R resamples of the patients: (R, ...). With `desc`, progress is shown."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            statistic(np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients))
            for _ in progress(range(resamples), desc=desc, unit="resample", shown=bool(desc))
        ]
    )


def interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of the 95 % percentile interval: (R, ...) -> (...) twice.

    A resample where a statistic is NaN, such as the AUC of a label that nobody in it has, is left out of that
    statistic's interval; where it is NaN in all of them, so are the ends.
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
        # a resample repeats patients whole: their sums are all that it needs
        self._numerators, self._denominators = (
            np.stack([np.bincount(patients, weights=column) for column in each.T], axis=1)
            for each in (numerators, denominators)
        )

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The ratios where each patient counts as often as `weights` says."""
        above, below = weights @ self._numerators, weights @ self._denominators
        return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


class Ranking:
    """AUC and average precision of one label: weights (P,) -> (2,), NaN where all that counts is 0, or 1.

    targets: (N,) of 0 and 1. scores: (N,), sorted once, here; a resample costs a sum along them. patients: (N,),
    integers from 0 to P - 1. Equal scores are half in order for the AUC, and for the average precision are called at
    one threshold, both as in scikit-learn, to which the result is equal but for rounding.
    """

    def __init__(self, targets: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> None:
        order = np.argsort(-scores, kind="stable")
        positive = targets[order] == 1
        self._patients = patients[order]
        self._of_positives = self._patients[positive]
        stops = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))  # of each group of equal scores
        starts = np.append(0, stops[:-1])
        positives = _running_sum(positive)
        # a group without a positive adds nothing to either sum; most are such
        holds = positives[stops] > positives[starts]
        self._starts, self._stops, self._positive_stops = starts[holds], stops[holds], positives[stops[holds]]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(AUC, average precision) where each patient counts as often as `weights` says."""
        everyone, positives = _running_sum(weights[self._patients]), _running_sum(weights[self._of_positives])
        n_positives, n_negatives = positives[-1], everyone[-1] - positives[-1]
        if n_positives == 0 or n_negatives == 0:
            return np.full(2, np.nan)
        above, found, called = everyone[self._starts], positives[self._positive_stops], everyone[self._stops]
        here = np.diff(found, prepend=0)  # positives of each group
        tied = called - above - here  # negatives of each group
        passed = above - (found - here) + tied / 2  # negatives that rank above its positives
        auc = 1 - np.sum(here * passed) / (float(n_positives) * float(n_negatives))
        # a group that the resample has nobody of: here is 0, whatever its precision
        precision = found / np.maximum(called, 1)
        return np.array([auc, np.sum(here * precision) / n_positives])


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Sums of the first k values, k from 0: (N,) -> (N + 1,). Of integers, which is exact and six times as fast."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums
