"""The loop over an epoch's batches, and what a network needs between an epoch and its validation."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import nn
from torch.utils.data import DataLoader

from src.errors import Stopped, UserError, stop_requested
from src.labels import WEIGHTS
from src.progress import progress
from src.train.loss import weighted_bce
from src.train.state import Position

# From a network and a batch of n slices to logits and targets, (n, 6) each.
Forward = Callable[[nn.Module, Any], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class StepResult:
    """A step over all processes: the sum of its slices' losses, how many they are, whether a process has to stop."""

    loss: float
    slices: int
    stopping: bool

    @property
    def mean_loss(self) -> float:
        """The mean over the step's slices."""
        return self.loss / self.slices


@dataclass(frozen=True)
class TrainingStep:
    """One update of a network's weights, by all processes together.

    network, optimizer: as accelerate prepared them. label_weights: see `weighted_bce`. clip_norm: the largest norm of
    the gradient over all weights; None for no limit.
    """

    accelerator: Accelerator
    network: nn.Module
    optimizer: torch.optim.Optimizer
    forward: Forward
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    label_weights: Sequence[float] = WEIGHTS
    clip_norm: float | None = None

    def __call__(self, batches: Sequence[Any], ids: Sequence[str], stop_requested: bool) -> StepResult:
        """Make the step of some batches, whose loss is the mean over their slices.

        ids: the slices that a batch's "index" counts. Raises UserError where the loss is not finite.
        """
        # all processes learn each other's losses and signals at once, and so go on in the same way
        own = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        counts = [len(batch["index"]) for batch in batches]
        own[1] = sum(counts)
        losses = self._backward(batches, counts, own[1].clone())
        for loss, count in zip(losses, counts, strict=True):
            own[0] += loss * count
        own[2] = stop_requested
        total, slices, stopping = self.accelerator.reduce(own).tolist()
        if not np.isfinite(total / slices):
            raise UserError(
                f"the loss is {total / slices} on the slices {_blamed(batches, losses, ids)}; "
                "try a lower optimizer.lr or precision: none"
            )
        self._update()
        return StepResult(total, int(slices), stopping > 0)

    def _backward(self, batches: Sequence[Any], counts: Sequence[int], slices: torch.Tensor) -> list[torch.Tensor]:
        """Add up the gradients of the batches; return the mean loss of each. slices: of this process."""
        weights = torch.tensor(self.label_weights, dtype=torch.float32, device=self.accelerator.device)
        slices = self.accelerator.reduce(slices)
        losses = []
        for batch, count in zip(batches, counts, strict=True):
            # processes exchange gradients once a step, with the last batch, and take their mean
            with nullcontext() if batch is batches[-1] else self.accelerator.no_sync(self.network):
                logits, targets = self.forward(self.network, batch)
                loss = weighted_bce(logits, targets, weights)
                self.accelerator.backward(loss * (count * self.accelerator.num_processes / slices).float())
            losses.append(loss.detach())
        return losses

    def _update(self) -> None:
        if self.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()


def train_epoch(
    step: TrainingStep,
    loader: DataLoader,
    position: Position,
    *,
    ids: Sequence[str],
    desc: str,
    seed: int = 0,
    accumulate: int = 1,
    after_step: Callable[[float, bool], None] = lambda loss, stopping: None,
) -> None:
    """Train for the rest of an epoch, and keep `position` up to date.

    loader: the batches after `position.step`; a step takes `accumulate` of them, and batches left over at the end of
    the epoch make none. ids: the slices that a batch's "index" counts. Randomness inside the network (dropout,
    stochastic depth) depends on seed, epoch, step and process alone. `after_step(loss, stopping)` is called between any
    two steps, at the same ones in all processes. Raises UserError where the loss is not finite; Stopped where a process
    got SIGTERM, after an `after_step` with stopping=True.
    """
    step.network.train()
    batches = progress(loader, desc=desc, unit="batch", shown=step.accelerator.is_main_process)
    started = time.perf_counter()
    with _sigterm_noted() as signals:
        for group in _groups(batches, accumulate):
            position.waiting += time.perf_counter() - started
            entropy = (seed, position.epoch, position.step, step.accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
            result = step(group, ids, bool(signals) or stop_requested())
            position.advance(result.loss, result.slices, time.perf_counter() - started)
            after_step(result.mean_loss, result.stopping)
            if result.stopping:
                raise Stopped(f"the same command goes on after step {position.step} of epoch {position.epoch}")
            started = time.perf_counter()  # saving is not waiting for data


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Whole groups of batches."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


def _blamed(group: Sequence[Any], losses: Sequence[torch.Tensor], ids: Sequence[str]) -> str:
    """The names of a step's slices, of all processes: those of batches whose loss is not finite, then the others."""
    by_fault: dict[bool, list[str]] = {True: [], False: []}
    for batch, loss in zip(group, losses, strict=True):
        by_fault[not loss.isfinite()] += [ids[i] for i in batch["index"].tolist()]
    bad, others = (", ".join(gather_object(by_fault[each])) for each in (True, False))
    return f"{bad}, of a step with {others}" if others else bad


@torch.no_grad()
def reestimate_batch_norm(accelerator: Accelerator, network: nn.Module, loader: DataLoader, desc: str) -> None:
    """Set the running means and variances of batch norm to those of the loader's slices under the present weights.

    Running statistics lag behind the weights; in a short run from scratch so far that validation shows nothing of what
    was learned. All else is as in validation, without dropout or stochastic depth. The loader gives (index, images),
    each process its share; all get the mean over them.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for _, images in progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process):
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(accelerator.reduce(statistic, reduction="mean"))


def share_buffers(network: nn.Module) -> None:
    """Give all processes the first one's buffers.

    Batch norm's statistics are each process's own, but one network is validated and saved.
    """
    for buffer in network.buffers():
        broadcast(buffer, from_process=0)


@contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """Collect SIGTERM in the yielded list, so that the loop can end between two steps."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
