"""A classifier in training, step by step, for the benchmark of training."""

import contextlib
import io
import time
from typing import Any

import torch
from torch import nn

from src.classify.network import build_network
from src.config import Config
from src.labels import LABELS
from src.train.distributed import make_accelerator
from src.train.epoch import TrainingStep, train_epoch
from src.train.optim import make_optimizer
from src.train.state import Position


def has_gpu() -> bool:
    """Whether a GPU is measured."""
    return torch.cuda.is_available()


def synchronised() -> float:
    """The time, once the device has finished all of its work."""
    if has_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_batches(config: Config, count: int) -> list[dict[str, torch.Tensor]]:
    """Batches of noise that are on the device already."""
    device = "cuda" if has_gpu() else "cpu"
    generator = torch.Generator().manual_seed(0)
    n, side = config.batch_size, config.image_size
    return [
        {
            "index": torch.arange(n),
            "image": torch.rand((n, 2 * config.neighbours + 1, side, side), generator=generator).to(device),
            "target": (torch.rand((n, len(LABELS)), generator=generator) < 0.1).float().to(device),
            "jitter": torch.zeros((n, len(config.windows), 2)).to(device),
        }
        for _ in range(count)
    ]


class Steps:
    """The training steps of a classifier without pretrained weights, over any batches."""

    def __init__(self, config: Config) -> None:
        self.accelerator = make_accelerator(config.precision)
        own = build_network(config, pretrained="none")
        network, optimizer = self.accelerator.prepare(own, make_optimizer(config.optimizer, own))
        if config.compile:
            own.compile()
        self.step = TrainingStep(self.accelerator, network, optimizer, _forward)
        self.ids = [f"ID_{i}" for i in range(10**6)]

    def train(self, batches: Any, position: Position | None = None, **more: Any) -> None:
        """One epoch over these batches. more: further arguments of `train_epoch`."""
        with contextlib.redirect_stderr(io.StringIO()):
            train_epoch(self.step, batches, position or Position(), ids=self.ids, desc="", **more)


def _forward(network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of a batch, as in a `ClassifierTask`."""
    return network(batch["image"], batch["jitter"]), batch["target"]
