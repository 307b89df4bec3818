"""The competition's metric: the mean of the labels' log losses, weighted by label.

Source: the competition's page "Evaluation"; `any` has weight 2, each subtype weight 1.
"""

from collections.abc import Callable

import numpy as np

from src.labels import WEIGHTS

CLIP = 1e-6  # probabilities are kept this far from 0 and 1, in the metric and in a submission


def log_losses(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The log loss of each slice and label: targets (N, 6) of 0 and 1, probabilities (N, 6) -> (N, 6).

    Raises ValueError for other shapes, no rows, or probabilities that are not finite or lie outside [0, 1].
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, dtype=np.float64)
    n = len(targets)
    if n == 0 or targets.shape != (n, len(WEIGHTS)) or probabilities.shape != targets.shape:
        raise ValueError(f"targets {targets.shape} and probabilities {probabilities.shape}; expected two (N, 6), N > 0")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must be finite and in [0, 1]")
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("targets must be 0 or 1")
    clipped = np.clip(probabilities, CLIP, 1 - CLIP)
    losses: np.ndarray = -np.log(np.where(targets == 1, clipped, 1 - clipped))
    return losses


def log_loss_by_label(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean binary log loss of each label: (N, 6) twice -> (6,). Raises ValueError like `log_losses`."""
    means: np.ndarray = log_losses(targets, probabilities).mean(axis=0)
    return means


def weighted_log_loss(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The competition's metric: targets (N, 6) of 0 and 1, probabilities (N, 6) -> mean weighted by WEIGHTS."""
    return float(np.average(log_loss_by_label(targets, probabilities), weights=WEIGHTS))


def auc_by_label(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each label: (N, 6) twice -> (6,), NaN for a label that is all 0 or all 1."""
    from sklearn.metrics import roc_auc_score  # here: it takes a second to import, and most commands score nothing

    return _by_label(roc_auc_score, targets, probabilities)


def average_precision_by_label(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each label: (N, 6) twice -> (6,), NaN for a label that is all 0 or all 1.

    Unlike the AUC, it depends on prevalence: an epidural bleed in 0.4 % of slices is hard to find without false alarms.
    """
    from sklearn.metrics import average_precision_score

    return _by_label(average_precision_score, targets, probabilities)


def constant_prior(targets: np.ndarray) -> np.ndarray:
    """The baseline that predicts each label's own prevalence for every case: (N, 6) -> (N, 6)."""
    return np.broadcast_to(np.asarray(targets, dtype=np.float64).mean(axis=0), np.shape(targets))


def _by_label(
    score: Callable[[np.ndarray, np.ndarray], float], targets: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    columns = zip(np.asarray(targets).T, np.asarray(probabilities).T, strict=True)
    return np.array([score(*pair) if 0 < pair[0].sum() < len(pair[0]) else np.nan for pair in columns])
