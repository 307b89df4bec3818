"""The loss on logits; by default it has the metric's weights and so equals the competition's metric."""

import torch
from torch.nn import functional as F

from src.labels import WEIGHTS


def weighted_bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy, the mean over slices and the mean over labels weighted by `weights`.

    logits, targets: (N, 6); weights: (6,) in the order of LABELS, by default WEIGHTS -> ().
    """
    if weights is None:
        weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=logits.device)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (losses * weights).sum(dim=1).mean() / weights.sum()
