import ast
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from torch.utils.data import Dataset

from src.config import Config
from src.train.loader import EpochSampler, make_loader


def test_an_epoch_has_every_item_once_in_its_own_order() -> None:
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert sorted(first) == [(1, i) for i in range(10)]
    assert list(sampler) == first
    sampler.epoch = 2
    assert sorted(sampler) == [(2, i) for i in range(10)]
    assert [i for _, i in sampler] != [i for _, i in first]


def test_the_sampler_goes_on_in_the_middle() -> None:
    sampler = EpochSampler(10, seed=3)
    whole = list(sampler)
    sampler.first = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == 6


class _Signals(Dataset[bool]):
    """Whether the process that reads ignores the signals that tell a run to stop."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bool:
        blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return blocked and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_workers_alone_ignore_what_tells_a_run_to_stop(config: Config) -> None:
    for workers, expected in ((1, True), (0, False)):
        loader = make_loader(config.model_copy(update={"workers": workers, "batch_size": 2}), _Signals())
        assert [batch.tolist() for batch in loader] == [[expected] * 2] * 2


class _Sharing(Dataset[int]):
    """What multiprocessing's thread that hands images over does with an error: it is given to sys.excepthook."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        sys.excepthook(type(self.error), self.error, None)
        return index


@pytest.mark.parametrize("error", [ConnectionResetError("a mistake"), EOFError("a mistake"), ValueError("a mistake")])
def test_a_worker_says_nothing_of_a_loop_that_has_left(
    config: Config, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    list(make_loader(config.model_copy(update={"workers": 1}), _Sharing(error)))
    assert ("a mistake" in capfd.readouterr().err) == isinstance(error, ValueError)


def test_workers_end_with_a_process_that_was_killed(repository: Path) -> None:
    code = """
        import os, time
        import torch
        from torch.utils.data import DataLoader
        from src.train.loader import start_worker

        workers = iter(DataLoader(list(range(100)), num_workers=2, worker_init_fn=start_worker))
        next(workers)
        print("begun", flush=True)
        time.sleep(100)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    assert len(psutil.wait_procs(workers, timeout=0.5)[1]) == 2
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=20)[1]  # torch's workers look for their parent every 5 s


def test_a_process_that_ends_in_a_hurry_takes_its_workers_with_it(repository: Path) -> None:
    # nothing tells the workers that it is over but the SIGTERM that multiprocessing sends at exit, and waits after
    code = """
        import os, sys, time
        from torch.utils.data import DataLoader
        from src.train.loader import start_worker

        class Slow(list):
            def __getitem__(self, index):
                time.sleep(30)

        iterator = iter(DataLoader(Slow(range(100)), num_workers=2, worker_init_fn=start_worker))
        time.sleep(1)
        print([worker.pid for worker in iterator._workers], flush=True)
        raise RuntimeError("a mistake")
    """
    begun = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert "a mistake" in result.stderr
    assert time.monotonic() - begun < 29
    assert not [pid for pid in ast.literal_eval(result.stdout) if psutil.pid_exists(pid)]
