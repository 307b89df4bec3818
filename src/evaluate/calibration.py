"""Calibration of probabilities: of all cases with a probability of 0.2, a fifth should have the label."""

import numpy as np

BINS = 15


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
