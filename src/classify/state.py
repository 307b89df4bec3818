"""Where a training stands, between any two steps: what it goes on from as if it had never stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from src.errors import UserError, first_few
from src.files.atomic import replacing


@dataclass
class Position:
    """How far a training has come. Chance at a step depends on the seed and this alone, so no generator is saved."""

    epoch: int = 1  # from 1
    step: int = 0  # finished steps of this epoch
    loss: float = 0.0  # summed over the slices of this epoch so far
    slices: int = 0
    seconds: float = 0.0  # that these steps took
    waiting: float = 0.0  # seconds of these that went by before a batch was there

    @property
    def mean_loss(self) -> float:
        """The epoch's mean loss over slices."""
        return self.loss / self.slices

    @property
    def images_per_second(self) -> float:
        """How fast the epoch's steps were."""
        return self.slices / self.seconds


@dataclass
class TrainingState:
    """What training changes: the network, what moves it, and what has been measured."""

    accelerator: Accelerator
    network: nn.Module  # unwrapped
    average: AveragedModel | None  # of the network's weights
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    trained_on: str  # a word for what it is trained on, such as Slices.fingerprint
    position: Position = field(default_factory=Position)
    metrics: list[dict[str, Any]] = field(default_factory=list)  # a row per finished epoch

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and saved: the average, where there is one."""
        return self.network if self.average is None else self.average.module

    def save(self, path: Path) -> None:
        """Write all of it, atomically, from the first process."""
        if not self.accelerator.is_main_process:
            return
        with replacing(path) as temporary:
            torch.save(
                {
                    "network": self.network.state_dict(),
                    "average": self.average.state_dict() if self.average is not None else {},
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "scaler": self._scaler.state_dict() if self._scaler is not None else {},
                    "position": vars(self.position),
                    "metrics": self.metrics,
                    "trained_on": self.trained_on,
                },
                temporary,
            )

    def restore(self, saved: dict[str, Any]) -> None:
        """Take on what `read_state` read."""
        self.network.load_state_dict(saved["network"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self._scaler is not None:
            self._scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        self.metrics = saved["metrics"]

    @property
    def _scaler(self) -> Any:
        return self.accelerator.scaler


_KEYS = ("network", "average", "optimizer", "scheduler", "scaler", "position", "metrics", "trained_on")


def read_state(path: Path) -> dict[str, Any]:
    """Read what `TrainingState.save` wrote, as data, never code. Raises UserError where it cannot be read."""
    remedy = f"delete {path.parent} to train this fold again"
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        lacking = [key for key in _KEYS if key not in saved]
    except Exception as error:  # whatever damaged bytes lead torch to
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if lacking:
        raise UserError(f"{path} lacks {first_few(lacking)}; {remedy}")
    return saved
