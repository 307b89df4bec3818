import numpy as np
import pytest
import torch

from src.evaluate.score import weighted_log_loss
from src.train.loss import weighted_bce


def test_the_loss_is_the_metric() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(50, 6)), (rng.random((50, 6)) < 0.3).astype(np.float32)
    loss = weighted_bce(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets))
    assert loss.item() == pytest.approx(weighted_log_loss(targets, 1 / (1 + np.exp(-logits))), rel=1e-5)


def test_any_weighs_twice() -> None:
    logits = torch.zeros(1, 6, requires_grad=True)
    weighted_bce(logits, torch.ones(1, 6)).backward()
    gradient = logits.grad[0] / logits.grad[0, 1]  # type: ignore[index]
    assert gradient.tolist() == pytest.approx([2, 1, 1, 1, 1, 1])


def test_half_precision_logits_are_widened() -> None:
    logits = torch.full((1, 6), -12.0, dtype=torch.bfloat16)
    assert weighted_bce(logits, torch.zeros(1, 6)).item() == pytest.approx(np.log1p(np.exp(-12)), rel=0.1)
