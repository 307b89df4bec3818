"""Batches: the order of an epoch's items, and the worker processes that load them."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from src.config import TrainingConf
from src.memory import keep_memory


class EpochSampler(Sampler[tuple[int, int]]):
    """Every item of an epoch once, as (epoch, index), in an order that depends only on seed and epoch.

    epoch, first: where the next iteration begins; an earlier run has used the items before `first`.
    """

    def __init__(self, n_items: int, seed: int) -> None:
        self.n_items, self.seed, self.epoch, self.first = n_items, seed, 1, 0

    def __len__(self) -> int:
        return self.n_items - self.first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_items)
        return ((self.epoch, int(index)) for index in order[self.first :])


def make_loader(config: TrainingConf, dataset: Dataset, **more: Any) -> DataLoader:
    """A loader with a conf's batch size and workers. more: further arguments of torch's DataLoader."""
    # workers live for one pass only, so that those of training, validation and statistics never exist at once
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.workers,
        worker_init_fn=start_worker,
        # workers' seeds come from here, not from the generator that dropout draws from
        generator=torch.Generator().manual_seed(config.seed),
        pin_memory=torch.cuda.is_available(),
        **more,
    )


def start_worker(worker: int) -> None:
    """Prepare a loader's worker process: signals, error reports, memory.

    Signals that stop a run often reach a whole group of processes, but the loop ends only between two steps and needs
    batches until then. So a worker obeys SIGTERM only from the loop's process, which sends it when it ends early and
    waits for its workers. If that process is gone, torch's workers notice this themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_loop, daemon=True).start()
    sys.excepthook = _report
    keep_memory()


def _obey_the_loop() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an error in a thread of a worker, unless the loop ended while an image was handed over to it."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
