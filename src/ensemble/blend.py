"""From many members to one: how their probabilities are put together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from src.errors import UserError
from src.evaluate.score import CLIP
from src.labels import WEIGHTS


@dataclass(frozen=True)
class Blend:
    """A mean over M members, of probabilities or of logits. weights: (M,), which sum to one."""

    weights: np.ndarray
    of_logits: bool = False

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(M, N, 6) -> (N, 6)."""
        if self.of_logits:
            return np.asarray(expit(np.tensordot(self.weights, to_logits(probabilities), axes=1)))
        # weights sum to one but for rounding: of members that are all sure the mean must not be surer than sure
        return np.clip(np.tensordot(self.weights, probabilities, axes=1), 0, 1)


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Log odds, of probabilities clipped as in the metric, so that they are finite."""
    return np.asarray(logit(np.clip(probabilities, CLIP, 1 - CLIP)))


def even(probabilities: np.ndarray) -> np.ndarray:
    """The weights of a plain mean: (M, N, 6) -> (M,)."""
    return np.full(len(probabilities), 1 / len(probabilities))


def fit_weights(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The weights, none negative, of the mean of probabilities with the least weighted log loss: (M,), their sum is 1.

    probabilities: (M, N, 6), targets: (N, 6). The loss is convex in the weights, so there is one least value; where
    members are copies of each other, more than one set of weights has it.
    """
    members = len(probabilities)
    likelihoods = np.where(targets == 1, probabilities, 1 - probabilities).clip(CLIP, 1 - CLIP).reshape(members, -1)
    shares = np.tile(np.array(WEIGHTS) / sum(WEIGHTS) / len(targets), len(targets))  # of each cell in the loss

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ likelihoods
        return float(-shares @ np.log(mixed)), -(likelihoods @ (shares / mixed))

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
        raise UserError(f"--blend weights: no least loss was found ({found.message}); take --blend mean")
    weights: np.ndarray = np.clip(found.x, 0, None)
    return weights / weights.sum()


# what --blend takes: from members' out-of-fold probabilities (M, N, 6) and targets (N, 6) to a blend
BLENDS: dict[str, Callable[[np.ndarray, np.ndarray], Blend]] = {
    "mean": lambda probabilities, targets: Blend(even(probabilities)),
    "logit-mean": lambda probabilities, targets: Blend(even(probabilities), of_logits=True),
    "weights": lambda probabilities, targets: Blend(fit_weights(probabilities, targets)),
}
