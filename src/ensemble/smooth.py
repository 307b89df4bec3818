"""Neighbouring slices share a bleed: Gaussian smoothing of logits along z, within a series."""

import numpy as np
from scipy.special import expit

from src.ensemble.blend import to_logits
from src.evaluate.score import weighted_log_loss
from src.files.places import Places

REACH = 4.0  # standard deviations, beyond which a neighbour has no weight
CHOICES_MM = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0)  # what `auto` chooses from


def smooth(probabilities: np.ndarray, places: Places, sigma_mm: float) -> np.ndarray:
    """Each slice's logits as the mean over its series, weighted by a Gaussian of the distance along z: (N, 6) -> same.

    sigma_mm: its standard deviation, 0 for none. The distances are what they are, so uneven gaps need no care: a
    neighbour that is far away has little weight. A slice whose z is unknown stays as it is.
    """
    if sigma_mm == 0:
        return probabilities
    known = np.flatnonzero(~np.isnan(places.z))
    order = known[np.lexsort((places.z[known], places.series[known]))]
    series, z = places.series[order], places.z[order]
    logits = to_logits(probabilities[order])
    total, weight = logits.copy(), np.ones(len(order))
    # pairs of slices that are `step` apart in their series, for as long as there are any within reach
    for step in range(1, len(order)):
        below = np.flatnonzero(series[step:] == series[:-step])
        distance = z[below + step] - z[below]
        below = below[distance <= REACH * sigma_mm]
        if not len(below):
            break
        above = below + step
        share = np.exp(-0.5 * ((z[above] - z[below]) / sigma_mm) ** 2)
        total[below] += share[:, None] * logits[above]
        total[above] += share[:, None] * logits[below]
        weight[below] += share
        weight[above] += share
    smoothed = np.array(probabilities, dtype=np.float64)
    smoothed[order] = expit(total / weight[:, None])
    return smoothed


def choose_sigma(probabilities: np.ndarray, targets: np.ndarray, places: Places) -> float:
    """The standard deviation in mm, of CHOICES_MM, with the least weighted log loss."""
    losses = [weighted_log_loss(targets, smooth(probabilities, places, each)) for each in CHOICES_MM]
    return CHOICES_MM[int(np.argmin(losses))]
