"""Make probabilities consistent: a slice with a subtype has `any` hemorrhage, so `any` is at least as probable."""

import numpy as np

from src.labels import WEIGHTS


def make_consistent(probabilities: np.ndarray) -> np.ndarray:
    """The nearest probabilities of which `any` is at least each subtype: (N, 6) -> (N, 6).

    Where `any` is below subtypes, it is pooled with the highest of them, one after the other, until their mean,
    weighted as in the metric, is not below the next one; all pooled labels get this mean. With true labels that are
    consistent, neither the weighted log loss nor the weighted squared error of any slice becomes larger. Consistent
    slices stay as they are, bit for bit.

    Sources: Barlow, Brunk, "The isotonic regression problem and its dual", J. Am. Stat. Assoc. 67, 1972 (the pooled
    means are the projection for every Bregman divergence, among them the squared error and the log loss); Robertson,
    Wright, Dykstra, "Order restricted statistical inference", 1988, chapter 1 (orders that are trees).
    """
    anything, subtypes = probabilities[:, 0], probabilities[:, 1:]
    wrong = np.flatnonzero(anything < subtypes.max(axis=1))
    if not len(wrong):
        return probabilities
    falling = -np.sort(-subtypes[wrong].astype(np.float64), axis=1)  # the subtypes weigh the same, whatever their order
    joined = np.column_stack([WEIGHTS[0] * anything[wrong], WEIGHTS[1] * falling])
    means = np.cumsum(joined, axis=1) / np.cumsum(WEIGHTS)  # of `any` and the k highest subtypes, k from 0 to 5
    following = np.column_stack([falling, np.full(len(wrong), -np.inf)])
    pooled = means[np.arange(len(wrong)), np.argmax(means >= following, axis=1)]
    pooled = np.clip(pooled, anything[wrong], falling[:, 0])  # where it lies except for rounding
    result = np.array(probabilities, dtype=np.float64)
    result[wrong, 0] = pooled
    result[wrong, 1:] = np.minimum(subtypes[wrong], pooled[:, None])
    return result
