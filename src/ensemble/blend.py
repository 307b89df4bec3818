"""Blend the probabilities of many members into one prediction."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from src.errors import UserError
from src.evaluate.score import CLIP
from src.labels import WEIGHTS


class NoLeastLoss(UserError):  # noqa: N818 - it names the state of a fit
    """The optimiser found no weights with the least loss."""


@dataclass(frozen=True)
class Blend:
    """A mean over M members, of probabilities or of logits. weights: (M,), which sum to one."""

    weights: np.ndarray
    of_logits: bool = False

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(M, N, 6) -> (N, 6)."""
        if self.of_logits:
            return np.asarray(expit(np.tensordot(self.weights, to_logits(probabilities), axes=1)))
        # the weights sum to one except for rounding, and the mean of ones must not exceed 1
        return np.clip(np.tensordot(self.weights, probabilities, axes=1), 0, 1)


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Log odds, with the probabilities clipped as in the metric so that the results are finite."""
    return np.asarray(logit(np.clip(probabilities, CLIP, 1 - CLIP)))


def even(probabilities: np.ndarray) -> np.ndarray:
    """The weights of a plain mean: (M, N, 6) -> (M,)."""
    return np.full(len(probabilities), 1 / len(probabilities))


def fit_weights(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The non-negative weights, with sum 1, whose mean of probabilities has the least weighted log loss: (M,).

    probabilities: (M, N, 6), targets: (N, 6). The loss is convex in the weights, so there is one least value; if
    members are copies of each other, several sets of weights have it. Raises NoLeastLoss if the search fails.
    """
    members = len(probabilities)
    likelihoods = np.where(targets == 1, probabilities, 1 - probabilities).clip(CLIP, 1 - CLIP).reshape(members, -1)
    # the weight of each slice and label in the loss
    fractions = np.tile(np.array(WEIGHTS) / sum(WEIGHTS) / len(targets), len(targets))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ likelihoods
        return float(-fractions @ np.log(mixed)), -(likelihoods @ (fractions / mixed))

    found = minimize(
        loss,
        even(probabilities),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 200},
    )
    if not found.success:
        raise NoLeastLoss(f"weights of the blend: no least loss was found ({found.message})")
    weights: np.ndarray = np.clip(found.x, 0, None)
    return weights / weights.sum()


# the choices of --blend: from the members' out-of-fold probabilities (M, N, 6) and targets (N, 6) to a blend
BLENDS: dict[str, Callable[[np.ndarray, np.ndarray], Blend]] = {
    "mean": lambda probabilities, targets: Blend(even(probabilities)),
    "logit-mean": lambda probabilities, targets: Blend(even(probabilities), of_logits=True),
    "weights": lambda probabilities, targets: Blend(fit_weights(probabilities, targets)),
}
