"""Gaussian smoothing of logits along z within a series, because a bleed spans adjacent slices."""

import numpy as np
from scipy.special import expit

from src.ct.series import order_by_series
from src.ensemble.blend import to_logits
from src.evaluate.score import weighted_log_loss
from src.files.slice_positions import SlicePositions

REACH = 4.0  # in standard deviations; slices further away have no weight
CHOICES_MM = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0)  # `auto` chooses from these


def smooth(probabilities: np.ndarray, positions: SlicePositions, sigma_mm: float) -> np.ndarray:
    """Average each slice's logits over its series, weighted by a Gaussian of the distance along z: (N, 6) -> same.

    sigma_mm: standard deviation of the Gaussian, 0 for no smoothing. Uneven spacing needs no special treatment, because
    distant slices have little weight. A slice whose z is unknown stays as it is.
    """
    if sigma_mm == 0:
        return probabilities
    order, _ = order_by_series(positions.series, positions.z)
    order = order[~np.isnan(positions.z[order])]
    series, z = positions.series[order], positions.z[order]
    logits = to_logits(probabilities[order])
    total, weight = logits.copy(), np.ones(len(order))
    # add pairs of slices that are `step` rows apart in their series, as long as any are within reach
    for step in range(1, len(order)):
        below = np.flatnonzero(series[step:] == series[:-step])
        distance = z[below + step] - z[below]
        below = below[distance <= REACH * sigma_mm]
        if not len(below):
            break
        above = below + step
        kernel = np.exp(-0.5 * ((z[above] - z[below]) / sigma_mm) ** 2)
        total[below] += kernel[:, None] * logits[above]
        total[above] += kernel[:, None] * logits[below]
        weight[below] += kernel
        weight[above] += kernel
    smoothed = np.array(probabilities, dtype=np.float64)
    smoothed[order] = expit(total / weight[:, None])
    return smoothed


def choose_sigma(probabilities: np.ndarray, targets: np.ndarray, positions: SlicePositions) -> float:
    """Choose the standard deviation in mm from CHOICES_MM that has the least weighted log loss."""
    losses = [weighted_log_loss(targets, smooth(probabilities, positions, each)) for each in CHOICES_MM]
    return CHOICES_MM[int(np.argmin(losses))]
