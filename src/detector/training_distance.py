"""How far a slice lies from the training set, by the embedding that a classifier makes of it.

Source: the squared distance of Mahalanobis as a measure of what a network has not seen, Lee et al., "A simple unified
framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018; its covariance is that of
probabilistic principal components, Tipping and Bishop, J. R. Stat. Soc. B 61 (1999): some axes with a variance each,
and one variance for all other directions, so that what lies outside the training set's subspace counts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from src.sequence.components import PrincipalComponents

AXES = 64  # with a variance of their own
ALLOWED = 0.01  # of unseen slices, and of unseen series, lie farther than their limits


_PROJECTION = "components."  # what the names of a projection's tensors begin with


@dataclass(frozen=True)
class TrainingDistribution:
    """The distribution of embeddings of D numbers: mean (D,), K axes (K, D) in units of their deviations, and noise.

    axes: each divided by its standard deviation; noise: the standard deviation along every other direction.
    projection: what embeddings go through first, where the second stage reads principal components of them.
    """

    mean: np.ndarray
    axes: np.ndarray
    noise: float
    projection: PrincipalComponents | None = None

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """The distances of Mahalanobis of a network's embeddings, (n, D) -> (n,) float64.

        They are divided by the root of D, so that they are about 1 where the distribution was fitted.
        """
        projected = embeddings if self.projection is None else self.projection(embeddings)
        centred = projected.astype(np.float64) - self.mean
        along = centred @ self.axes.T
        lengths = np.linalg.norm(self.axes, axis=1)  # of an axis that is in units of its deviation: 1 / deviation
        others = (centred**2).sum(axis=1) - ((along / lengths) ** 2).sum(axis=1)
        squared = (along**2).sum(axis=1) + np.maximum(others, 0) / self.noise**2
        distances: np.ndarray = np.sqrt(squared / centred.shape[1])
        return distances

    def tensors(self) -> dict[str, torch.Tensor]:
        """As tensors, to be kept in a file."""
        arrays = {"mean": self.mean, "axes": self.axes, "noise": np.array([self.noise])}
        if self.projection is not None:
            arrays |= {f"{_PROJECTION}mean": self.projection.mean, f"{_PROJECTION}axes": self.projection.axes}
        return {name: torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)) for name, each in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "TrainingDistribution":
        """From `tensors`. Raises KeyError and ValueError for others."""
        arrays = {name: tensor.numpy().astype(np.float64) for name, tensor in tensors.items()}
        mean, axes, noise = (arrays[name] for name in ("mean", "axes", "noise"))
        if mean.ndim != 1 or axes.ndim != 2 or axes.shape[1:] != mean.shape or noise.shape != (1,) or noise[0] <= 0:
            raise ValueError(f"a mean of shape {mean.shape}, axes of {axes.shape} and noise of {noise.shape}")
        projection = None
        if f"{_PROJECTION}mean" in arrays:
            projection = PrincipalComponents(arrays[f"{_PROJECTION}mean"], arrays[f"{_PROJECTION}axes"])
        return cls(mean, axes, float(noise[0]), projection)


def fit_distribution(
    embeddings: np.ndarray, projection: PrincipalComponents | None = None
) -> TrainingDistribution | None:
    """Fit a distribution to embeddings (n, D), which went through `projection`; None where n is too small for one."""
    count = min(AXES, len(embeddings) // 4, embeddings.shape[1] // 2)
    if not count:
        return None
    mean = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    largest, others = variances[::-1][:count], variances[: len(variances) - count]
    noise = float(np.maximum(others, 0).mean())
    if not noise or largest[-1] <= 0:
        return None
    axes = vectors.T[::-1][:count] / np.sqrt(largest)[:, None]
    axes *= np.sign(axes[np.arange(count), np.abs(axes).argmax(axis=1)])[:, None]  # an eigenvector's sign is arbitrary
    return TrainingDistribution(mean, axes, float(np.sqrt(noise)), projection)


def limits_of(distances: np.ndarray, starts: np.ndarray) -> tuple[float, float]:
    """Limits for slices and series that no more than ALLOWED of unseen ones exceed.

    distances: (n,) of unseen slices, series by series; starts: (S + 1,), where each begins. The first is of a slice's
    distance, the second of the fraction of a series' slices that are farther than the first.
    """
    slice_limit = float(np.quantile(distances, 1 - ALLOWED, method="higher"))
    beyond = np.add.reduceat((distances > slice_limit).astype(np.float64), starts[:-1]) / np.diff(starts)
    return slice_limit, float(np.quantile(beyond, 1 - ALLOWED, method="higher"))
