"""Several networks of one conf that look at slices together: each slice is read once for all of them."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset

from src.classify.dataset import EvalDataset
from src.classify.inputs import SliceInputs
from src.classify.jobs import Job, JobGroup
from src.classify.network import build_network
from src.classify.tta import IDENTITY, apply_view, mean_over_views
from src.config import Config, ViewConf
from src.errors import UserError, first_few
from src.labels import LABELS
from src.progress import progress
from src.train.checkpoint import load_checkpoint
from src.train.loader import make_loader

_log = logging.getLogger(__name__)

SAVE_S = 60.0  # seconds between two saves of what is there so far

# What a network makes of the views of a batch of N slices: (N, F).
Output = Callable[[nn.Module, Sequence[torch.Tensor]], torch.Tensor]


class Sink(Protocol):
    """Takes the outputs of K networks for the slices of a group, in their order."""

    done: int  # slices that are there, of which an earlier run may have saved some

    def add(self, outputs: np.ndarray) -> None:
        """Take the outputs of the n slices that follow: (K, n, F)."""

    def save(self) -> None:
        """Make durable what is there so far."""


class NoSink:
    """Takes nothing: in all processes but the first."""

    done = 0

    def add(self, outputs: np.ndarray) -> None:
        """Take nothing."""

    def save(self) -> None:
        """Save nothing."""


@dataclass(frozen=True)
class Predictor:
    """K networks of a conf, ready to predict, and what they make of a slice's views. names: theirs, for messages."""

    config: Config
    accelerator: Accelerator
    networks: Sequence[nn.Module]
    output: Output = mean_over_views
    names: Sequence[str] = ()

    def outputs(self, inputs: SliceInputs, chosen: Sequence[int], desc: str, *, done: int = 0) -> Iterator[np.ndarray]:
        """Yield the outputs of some slices, batch by batch in their order: (K, n, F) float32.

        done: slices that an earlier run has finished, for the progress bar. Each process yields all of them. Raises
        UserError where an output is not finite.
        """
        if not len(chosen):
            return
        started, waiting = time.perf_counter(), 0.0
        subset = Subset(EvalDataset(inputs, self.config), chosen)
        batches = predict_batches(
            self.accelerator,
            self.networks,
            self.accelerator.prepare(make_loader(self.config, subset)),
            desc,
            n_slices=done + len(chosen),
            done=done,
            views=self.config.tta,
            output=self.output,
            names=self.names,
        )
        taken = 0
        for index, outputs, waited in batches:
            if index.tolist() != list(chosen[taken : taken + len(index)]):
                raise RuntimeError(f"{desc}: slices came in another order than they were asked for")
            taken += len(index)
            waiting += waited
            yield outputs
        seconds = time.perf_counter() - started
        _log.info(
            "%s: %d slices in %.0f s, %.0f slices/s, %.0f%% of the time spent waiting for data",
            *(desc, len(chosen), seconds, len(chosen) / seconds, 100 * waiting / seconds),
        )

    def fill(self, sink: Sink, inputs: SliceInputs, desc: str, save_s: float = SAVE_S) -> None:
        """Give a sink the outputs that it lacks, saved every `save_s` seconds and where the run is stopped."""
        first = broadcast_object_list([sink.done])[0]
        saved_at = time.monotonic()
        try:
            for outputs in self.outputs(inputs, range(first, len(inputs)), desc, done=first):
                sink.add(outputs)
                if time.monotonic() - saved_at >= save_s:
                    sink.save()
                    saved_at = time.monotonic()
            sink.save()
        except BaseException:
            if sink.done:
                sink.save()
            raise


# Makes a sink for some jobs and their predictor.
OpenSink = Callable[[Sequence[Job], Predictor], AbstractContextManager[Sink]]
OnDone = Callable[[str, int, float], None]


def run_jobs(
    config: Config,
    accelerator: Accelerator,
    group: JobGroup,
    open_sink: OpenSink,
    *,
    output: Output = mean_over_views,
    at_once: int | None = None,
    save_s: float = SAVE_S,
    on_done: OnDone = lambda desc, slices, seconds: None,
) -> None:
    """Do the jobs of a group that are left, as many networks at a time as half of the free memory holds.

    open_sink: its sink writes the jobs' files when it is left without an error. at_once: networks in memory together,
    in place of what fits. save_s: seconds between two saves. on_done: told in the first process what was done, of how
    many slices and in how many seconds.
    """
    due = group.due
    network = build_network(config, pretrained="none")
    together = at_once or how_many_fit(accelerator, network)
    for first in range(0, len(due), together):
        jobs = due[first : first + together]
        desc = f"{group.name}, {_checkpoints(first + 1, first + len(jobs))} of {len(due)}"
        slices, seconds = _run_together(
            config, accelerator, network, jobs, group.inputs, open_sink, output, desc, save_s
        )
        if accelerator.is_main_process and slices:
            on_done(desc, slices, seconds)
        accelerator.wait_for_everyone()
        accelerator.free_memory()  # of these networks, which nothing holds any more, before the next are loaded


def _run_together(
    config: Config,
    accelerator: Accelerator,
    network: nn.Module,
    jobs: Sequence[Job],
    inputs: SliceInputs,
    open_sink: OpenSink,
    output: Output,
    desc: str,
    save_s: float,
) -> tuple[int, float]:
    """Do the jobs of networks that are in memory together: the number of slices that were left, and the seconds."""
    networks = load_networks(accelerator, network, [job.checkpoint for job in jobs])
    predictor = Predictor(config, accelerator, networks, output, [str(job.checkpoint) for job in jobs])
    with open_sink(jobs, predictor) as sink:
        left, started = len(inputs) - sink.done, time.perf_counter()
        predictor.fill(sink, inputs, desc, save_s)
        return left, time.perf_counter() - started


def _checkpoints(first: int, last: int) -> str:
    return f"checkpoints {first} to {last}" if last > first else f"checkpoint {first}"


def how_many_fit(accelerator: Accelerator, network: nn.Module) -> int:
    """How many of a network fit into half of the free memory; the other half is for activations and data."""
    weights = sum(each.nbytes for each in network.state_dict().values())
    if accelerator.device.type == "cuda":
        free = torch.cuda.mem_get_info(accelerator.device)[0]
    else:
        free = psutil.virtual_memory().available // accelerator.num_processes
    return int(min(gather_object([max(1, free // 2 // weights)])))  # the processes must agree


def load_networks(accelerator: Accelerator, network: nn.Module, checkpoints: Sequence[Path]) -> list[nn.Module]:
    """A copy of a network for each checkpoint, ready to predict."""
    networks = []
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint, network)
        networks.append(accelerator.prepare_model(deepcopy(network), evaluation_mode=True))
    return networks


@torch.inference_mode()
def predict_batches(
    accelerator: Accelerator,
    networks: Sequence[nn.Module],
    loader: DataLoader,
    desc: str,
    *,
    n_slices: int,
    done: int = 0,
    views: Sequence[ViewConf] = (IDENTITY,),
    output: Output = mean_over_views,
    names: Sequence[str] = (),
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Predict the loader's slices by K networks.

    The loader gives (index, images) in order, after the first `done` of n_slices; each process gets all results:
    (index (N,), outputs (K, N, F) float32, seconds spent waiting for the batch). names: of the networks, for messages.
    Raises UserError where an output is not finite.
    """
    for network in networks:
        network.eval()
    with progress(desc=desc, total=n_slices, initial=done, shown=accelerator.is_main_process) as bar:
        started = time.perf_counter()
        for index, images in loader:
            waited = time.perf_counter() - started
            seen = [apply_view(images, view) for view in views]
            with accelerator.autocast():
                by_network = torch.stack([output(network, seen) for network in networks], dim=1)  # (N, K, F)
            index, by_network = accelerator.gather_for_metrics((index, by_network))
            outputs = by_network.cpu().numpy().swapaxes(0, 1)
            if not (finite := np.isfinite(outputs).all(axis=(1, 2))).all():
                whose = first_few(name for name, sound in zip(names, finite, strict=False) if not sound)
                raise UserError(
                    f"{whose or desc}: some predictions are not finite, for the network has diverged; train it with a "
                    "lower lr"
                )
            bar.update(len(index))
            yield index.cpu().numpy(), outputs, waited
            started = time.perf_counter()


def predict_slices(
    accelerator: Accelerator, network: nn.Module, loader: DataLoader, n_slices: int, desc: str
) -> np.ndarray:
    """A network's probabilities of every slice in the identity view: (n_slices, 6) float32. See `predict_batches`."""
    probabilities = np.full((n_slices, len(LABELS)), np.nan, dtype=np.float32)
    for index, (predicted,), _ in predict_batches(accelerator, [network], loader, desc, n_slices=n_slices):
        probabilities[index] = predicted
    return probabilities
