"""Calibration of probabilities: of all cases with a probability of 0.2, a fifth should have the label."""

import numpy as np
from scipy.special import expit, logit

from src.evaluate.score import CLIP

BINS = 15
_MOST_STEPS = 60  # of Newton's method, which takes about six
_CONVERGED = 1e-9


def squared_errors(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared errors, whose mean over cases is the Brier score of each label: (N, 6) twice -> (N, 6).

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1950;
    this is half of his sum over both outcomes, as is usual.
    """
    errors: np.ndarray = (np.asarray(probabilities, dtype=np.float64) - targets) ** 2
    return errors


def calibration_error_by_label(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The expected calibration error of each label: (N, 6) twice -> (6,).

    Cases are put into 15 bins of equal width by their probability, (0, 1/15], (1/15, 2/15] and so on, 0 in the first;
    the error is the mean over cases of the absolute difference between the fraction of positives in their bin and the
    mean probability of the bin.

    Sources: Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015
    (of the probability of one class, as here); Guo et al., "On calibration of modern neural networks", ICML 2017 (the
    bins). There is no interval: the absolute differences count the noise of each bin as error, so the interval of a
    well calibrated model would lie above its true error.
    """
    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    errors = []
    for target, probability in zip(targets.T, np.asarray(probabilities, dtype=np.float64).T, strict=True):
        excess = np.bincount(np.digitize(probability, inner_edges, right=True), weights=probability - target)
        errors.append(np.abs(excess).sum() / len(target))
    return np.array(errors)


class Recalibration:
    """Calibration intercept and slope of one label: weights (P,) -> (2,).

    The intercept a is that of logit P(y = 1) = a + logit(p), "calibration in the large": 0 where the mean probability
    is right, below 0 where probabilities are too high. The slope b is that of logit P(y = 1) = a' + b logit(p): 1 where
    they are spread as they should be, below 1 where they are too extreme. Both are maximum likelihood; NaN where it has
    none, as for the slope of a label whose cases the probabilities separate.

    Sources: Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958; Van Calster et al.,
    "A calibration hierarchy for risk models was defined", J. Clin. Epidemiol. 74, 2016.

    targets: (N,) of 0 and 1. probabilities: (N,), kept CLIP away from 0 and 1. patients: (N,), from 0 to P - 1.
    """

    def __init__(self, targets: np.ndarray, probabilities: np.ndarray, patients: np.ndarray) -> None:
        self._targets = np.asarray(targets, dtype=np.float64)
        self._logits = logit(np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP))
        self._patients = patients

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(intercept, slope) with each patient counted as often as `weights` gives."""
        of_cases = weights[self._patients]
        counted = of_cases > 0
        targets, logits, of_cases = self._targets[counted], self._logits[counted], of_cases[counted]
        positives, negatives = logits[targets == 1], logits[targets == 0]
        if not len(positives) or not len(negatives):
            return np.full(2, np.nan)
        ones = np.ones_like(logits)
        intercept = _most_likely(ones[:, None], logits, targets, of_cases, np.zeros(1))[0]
        # a threshold between the two kinds of cases: the steeper the slope, the more likely they are
        if negatives.max() <= positives.min() or positives.max() <= negatives.min():
            return np.array([intercept, np.nan])
        design = np.stack([ones, logits], axis=1)
        slope = _most_likely(design, np.zeros_like(logits), targets, of_cases, np.array([0.0, 1.0]))[1]
        return np.array([intercept, slope])


def _most_likely(
    design: np.ndarray, offset: np.ndarray, targets: np.ndarray, weights: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Logistic regression: the coefficients (K,) of a design (N, K) with the largest likelihood; NaN if not found.

    Newton's method with halved steps, which always climbs, since the likelihood has one summit.
    """

    def log_likelihood(coefficients: np.ndarray) -> float:
        score = offset + design @ coefficients
        return float(weights @ (targets * score - np.logaddexp(0, score)))

    found, height = start, log_likelihood(start)
    for _ in range(_MOST_STEPS):
        probability = expit(offset + design @ found)
        gradient = design.T @ (weights * (targets - probability))
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            break
        if np.abs(step).max() < _CONVERGED:
            return np.asarray(found)
        while (climbed := log_likelihood(found + step)) < height and np.abs(step).max() > _CONVERGED:
            step = step / 2
        found, height = found + step, climbed
    return np.full(len(start), np.nan)
