"""The state of a training between any two steps, and the resume point that an earlier run left."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from src.config import TrainingConf, changed_keys
from src.errors import UserError, first_few, shortened
from src.files.checksum import read_sealed, write_sealed
from src.files.layout import FoldFolder
from src.train.checkpoint import HARMLESS_KEYS, read_data_fingerprint


@dataclass
class Position:
    """How far a training has progressed.

    Random numbers at a step depend only on the seed and on this position, so no random generator is saved.
    """

    epoch: int = 1  # from 1
    step: int = 0  # finished steps of this epoch
    loss: float = 0.0  # summed over the slices of this epoch so far
    slices: int = 0
    seconds: float = 0.0  # that these steps took
    waiting: float = 0.0  # the part of these seconds that was spent waiting for batches

    def advance(self, loss: float, slices: int, seconds: float) -> None:
        """Count a finished step: the sum of its slices' losses, the number of slices, and the duration."""
        self.step += 1
        self.loss += loss
        self.slices += slices
        self.seconds += seconds

    @property
    def mean_loss(self) -> float:
        """The epoch's mean loss over slices."""
        return self.loss / self.slices

    @property
    def images_per_second(self) -> float:
        """The speed of the epoch's steps so far."""
        return self.slices / self.seconds


@dataclass
class TrainingState:
    """Everything that training changes: the network, its optimiser, and the metrics."""

    accelerator: Accelerator
    network: nn.Module  # unwrapped
    average: AveragedModel | None  # of the network's weights
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    data_fingerprint: str  # of the training data
    position: Position = field(default_factory=Position)
    metrics: list[dict[str, Any]] = field(default_factory=list)  # a row per finished epoch
    versions: str = ""  # the seal that `note_versions` returned

    @property
    def eval_network(self) -> nn.Module:
        """The network that is validated and saved: with averaged weights, if there is an average."""
        return self.network if self.average is None else self.average.module

    def save(self, path: Path) -> None:
        """Write the whole state, atomically, from the first process only."""
        if not self.accelerator.is_main_process:
            return
        saved = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self._scaler.state_dict() if self._scaler is not None else {},
            "position": vars(self.position),
            "metrics": self.metrics,
            "trained_on": self.data_fingerprint,
            "versions": self.versions,
        }
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        write_sealed(path, buffer.getvalue())

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore a state that `read_state` has read. Raises UserError where it is that of something else."""
        try:
            self._restore(saved)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what is in the place of numbers can make torch raise anything
            raise UserError(
                f"the saved state does not fit this training ({type(error).__name__}: {shortened(error)})"
            ) from error

    def _restore(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scheduler"].keys() != self.scheduler.state_dict().keys():  # torch takes any
            raise KeyError(f"scheduler with {first_few(saved['scheduler'])}")
        self.scheduler.load_state_dict(saved["scheduler"])
        if self._scaler is not None:
            self._scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        numbers = {name: type(value) for name, value in vars(Position()).items()}
        if any(type(getattr(self.position, name)) is not kind for name, kind in numbers.items()):
            raise TypeError(f"position {vars(self.position)}")
        if not isinstance(saved["metrics"], list) or not all(isinstance(row, dict) for row in saved["metrics"]):
            raise TypeError("metrics that are no rows")
        self.metrics = saved["metrics"]
        self.versions = str(saved.get("versions", ""))  # none in files of earlier versions

    @property
    def _scaler(self) -> Any:
        return self.accelerator.scaler


_KEYS = ("network", "average", "optimizer", "scheduler", "scaler", "position", "metrics", "trained_on")


def read_state(path: Path) -> dict[str, Any]:
    """Read what `TrainingState.save` wrote, without executing code. Raises UserError where it cannot be read."""
    remedy = f"delete {path.parent} to train this fold again"
    data = io.BytesIO(read_sealed(path, advice=f"; {remedy}"))
    try:
        saved: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        lacking = [key for key in _KEYS if key not in saved]
    except Exception as error:  # damaged bytes can make torch raise anything
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if lacking:
        raise UserError(f"{path} lacks {first_few(lacking)}; {remedy}")
    return saved


@dataclass(frozen=True)
class ResumePoint:
    """finished: every epoch has its checkpoint and nothing is left to resume; state: from `read_state`, or None."""

    finished: bool
    state: dict[str, Any] | None


def find_resume_point(config: TrainingConf, folder: FoldFolder, data_fingerprint: str) -> ResumePoint:
    """Find the resume point that an earlier run left. data_fingerprint: of this run's training data.

    Raises UserError where the earlier run was a different training. A run that failed before its first save left none.
    """
    paths = [folder.checkpoint(epoch) for epoch in range(1, config.epochs + 1)]
    checkpoints = [path for path in paths if path.is_file()]
    state = read_state(folder.state) if folder.state.is_file() else None
    if not checkpoints and state is None:
        return ResumePoint(False, None)
    remedy = f"delete {folder.path} to train anew"
    if folder.conf.is_file():
        changed = set(changed_keys(config, folder.conf, advice=f"; {remedy}")) - HARMLESS_KEYS
        if changed:
            raise UserError(
                f"{folder.path} was begun with another {', '.join(sorted(changed))} ({folder.conf} says which); "
                f"change it back, or {remedy}"
            )
    fingerprints = {read_data_fingerprint(path) for path in checkpoints}
    if state is not None:
        fingerprints.add(state["trained_on"])
    if fingerprints != {data_fingerprint}:
        raise UserError(
            f"{folder.path} was trained on other slices, folds or labels than {folder.path.name} has now, or on "
            f"embeddings by another network; {remedy}"
        )
    return ResumePoint(state is None and len(checkpoints) == len(paths), state)
