"""The loss: the competition's metric, on logits."""

import torch
from torch.nn import functional as F

from src.labels import WEIGHTS


def weighted_bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, the mean over slices and the mean over labels weighted by WEIGHTS: (N, 6) twice -> ()."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=logits.device)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (losses * weights).sum(dim=1).mean() / weights.sum()
