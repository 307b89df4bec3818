"""How slices get from a dataset to the loop: batches, and the processes that make them."""

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from src.config import TrainingConf


def make_loader(config: TrainingConf, dataset: Dataset, **more: Any) -> DataLoader:
    """A loader with a conf's batches and workers. more: further arguments of torch's."""
    # workers live for one pass, so that those of training, validation and statistics are never there at once
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
    """What a loader's worker does first.

    Signals that tell a run to stop often go to a whole group of processes, but it is the loop that ends between two
    steps, and it needs its batches until then. So a worker heeds SIGTERM from the loop's process alone, which sends it
    when it ends in a hurry and waits for its workers. Where that is gone, torch's workers find out by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_heed_the_loop, daemon=True).start()
    sys.excepthook = _report
    keep_memory()


def _heed_the_loop() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report what a thread of a worker met, but for a loop that left while an image was handed over to it."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def keep_memory() -> None:
    """Let this process keep the memory of images that it is done with.

    glibc hands blocks of an image's size back to the kernel at once, and fresh ones cost a sixth of a loader's time
    (benchmarks/loader.py). Other C libraries are left as they are.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 128 << 20)
