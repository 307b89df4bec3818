"""The loops over slices: one epoch of training, one pass of prediction."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast, gather_object
from torch import nn
from torch.utils.data import DataLoader

from src.classify.loss import weighted_bce
from src.classify.state import Position
from src.classify.views import AS_IT_IS, look, mean_over_views
from src.config import ViewConf
from src.errors import Stopped, UserError
from src.labels import LABELS, WEIGHTS
from src.progress import progress


def make_accelerator(precision: str) -> Accelerator:
    """The device, precision ("fp16", "bf16", "none") and processes that torch.distributed and accelerate see.

    Without a CUDA device fp16 becomes fp32, with a line that says so.
    """
    has_gpu = torch.cuda.is_available()
    mixed = "no" if precision == "none" or (precision == "fp16" and not has_gpu) else precision
    # a conf's batch is the whole of a step, shared by the processes: learning rate and steps keep their meaning
    loading = DataLoaderConfiguration(split_batches=True)
    accelerator = Accelerator(mixed_precision=mixed, cpu=not has_gpu, dataloader_config=loading)
    if precision == "fp16" and not has_gpu and accelerator.is_main_process:
        print("no CUDA device: fp32 on the CPU in place of fp16", flush=True)
    return accelerator


def slices_and_targets(network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a classifier says of a batch of n slices, and what is true: logits and targets, (n, 6) each."""
    return network(batch["image"], batch["jitter"]), batch["target"]


def train_epoch(
    accelerator: Accelerator,
    network: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    ids: Sequence[str],
    desc: str,
    position: Position,
    *,
    seed: int = 0,
    accumulate: int = 1,
    clip_norm: float | None = None,
    label_weights: Sequence[float] = WEIGHTS,
    forward: Callable[[nn.Module, Any], tuple[torch.Tensor, torch.Tensor]] = slices_and_targets,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    after_step: Callable[[float, bool], None] = lambda loss, stopping: None,
) -> None:
    """Train for what is left of an epoch, and keep `position` up to date.

    ids: names of the dataset's slices; loader: the batches after `position.step`; a step is made of `accumulate` of
    them, and of what is left at the end of an epoch none is made; its loss is the mean over its slices. `forward` gives
    logits and targets of the slices that a batch names under "index". What chance there is inside the network (dropout,
    stochastic depth) depends on seed, epoch, step and process alone. label_weights: see `weighted_bce`.
    `after_step(loss, stopping)` is called between any two steps, at the same ones on all processes. Raises UserError
    where the loss is not finite; Stopped where a process was sent SIGTERM, after an `after_step` with stopping=True.
    """
    network.train()
    weights = torch.tensor(label_weights, dtype=torch.float32, device=accelerator.device)
    batches = progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process)
    begun = time.perf_counter()
    with _sigterm_noted() as asked_to_stop:
        for group in _groups(batches, accumulate):
            position.waiting += time.perf_counter() - begun
            place = (seed, position.epoch, position.step, accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            # all processes hear of each other's losses and signals at once, and so do the same next
            here = torch.zeros(3, dtype=torch.float64, device=accelerator.device)
            losses = []
            counts = [len(batch["index"]) for batch in group]
            here[1] = sum(counts)
            slices = accelerator.reduce(here[1].clone())  # of the step, over all processes
            for batch, count in zip(group, counts, strict=True):
                # gradients travel between processes once a step, with the last batch, and their mean is taken
                with nullcontext() if batch is group[-1] else accelerator.no_sync(network):
                    logits, targets = forward(network, batch)
                    loss = weighted_bce(logits, targets, weights)
                    accelerator.backward(loss * (count * accelerator.num_processes / slices).float())
                losses.append(loss.detach())
                here[0] += losses[-1] * count
            here[2] = len(asked_to_stop)
            sums = accelerator.reduce(here).tolist()
            value = sums[0] / sums[1]
            if not np.isfinite(value):
                raise UserError(
                    f"the loss is {value} on the slices {_blamed(group, losses, ids)}; "
                    "try a lower optimizer.lr or precision: none"
                )
            if clip_norm is not None:
                accelerator.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
            position.step += 1
            position.loss += sums[0]
            position.slices += int(sums[1])
            position.seconds += time.perf_counter() - begun
            stopping = sums[2] > 0
            after_step(value, stopping)
            begun = time.perf_counter()  # saving is no waiting for data
            if stopping:
                raise Stopped(f"the same command goes on after step {position.step} of epoch {position.epoch}")


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
    failed: dict[bool, list[str]] = {True: [], False: []}
    for batch, loss in zip(group, losses, strict=True):
        failed[not loss.isfinite()] += [ids[i] for i in batch["index"].tolist()]
    bad, others = (", ".join(gather_object(failed[each])) for each in (True, False))
    return f"{bad}, of a step with {others}" if others else bad


@torch.no_grad()
def reestimate_batch_norm(accelerator: Accelerator, network: nn.Module, loader: DataLoader, desc: str) -> None:
    """Set the running means and variances of batch norm to those of the loader's slices under the present weights.

    Running statistics lag behind the weights; over a short run from scratch so far that validation shows nothing of
    what was learned. All else is as in validation: without dropout or stochastic depth. The loader gives
    (index, images), each process its share; all get the mean over them.
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
    """Give all processes the first one's buffers: batch norm's statistics are each process's own, but one network is
    validated and saved.
    """
    for buffer in network.buffers():
        broadcast(buffer, from_process=0)


@torch.inference_mode()
def predict_batches(
    accelerator: Accelerator,
    networks: Sequence[nn.Module],
    loader: DataLoader,
    desc: str,
    *,
    n_slices: int,
    done: int = 0,
    views: Sequence[ViewConf] = (AS_IT_IS,),
    output: Callable[[nn.Module, Sequence[torch.Tensor]], torch.Tensor] = mean_over_views,
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Predict the loader's slices by K networks, each slice read once for all of them.

    The loader gives (index, images) in order, after the first `done` of n_slices; each process gets all of it:
    (index (N,), outputs (K, N, F) float32, seconds that went by before the batch was there). output: what a network
    makes of the views of a batch, (N, F); by default the six mean probabilities. Raises UserError where something of it
    is not finite.
    """
    for network in networks:
        network.eval()
    shown = accelerator.is_main_process
    with progress(desc=desc, total=n_slices, initial=done, shown=shown) as bar:
        begun = time.perf_counter()
        for index, images in loader:
            waited = time.perf_counter() - begun
            seen = [look(images, view) for view in views]
            by_network = torch.stack([output(network, seen) for network in networks], dim=1)  # (N, K, F)
            index, by_network = accelerator.gather_for_metrics((index, by_network))
            outputs = by_network.cpu().numpy().swapaxes(0, 1)
            if not np.isfinite(outputs).all():
                raise UserError("some predictions are not finite: the network has diverged; train it with a lower lr")
            bar.update(len(index))
            yield index.cpu().numpy(), outputs, waited
            begun = time.perf_counter()


def predict_slices(
    accelerator: Accelerator, network: nn.Module, loader: DataLoader, n_slices: int, desc: str
) -> np.ndarray:
    """A network's probabilities of every slice as it is: (n_slices, 6) float32. See `predict_batches`."""
    probabilities = np.full((n_slices, len(LABELS)), np.nan, dtype=np.float32)
    for index, (predicted,), _ in predict_batches(accelerator, [network], loader, desc, n_slices=n_slices):
        probabilities[index] = predicted
    return probabilities


@contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """Collect SIGTERM in the yielded list instead of dying of it, so that the loop can end between two steps."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
