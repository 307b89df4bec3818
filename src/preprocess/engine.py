"""The engines of preprocessing, all through joblib: this process, the cores of this machine, or a cluster.

A task consists of the arguments of a function: plain numbers, strings, tuples and lists, which every engine sends along
with the task itself. Larger objects would be sent to one worker first, and would be lost with it.
"""

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config

from src.arguments import positive
from src.errors import UserError
from src.files.scratch import note_semaphores, scratch_folder
from src.preprocess.dask_engine import GO_ON, dask_engine
from src.progress import progress


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, `--jobs` and `--dask-address`, named like the arguments of `run_tasks`."""
    parser.add_argument(
        "--engine", choices=list(ENGINES), default="loky", help="this process, its cores, or a cluster (default loky)"
    )
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="local workers (default: all cores)")
    parser.add_argument(
        "--dask-address", metavar="tcp://HOST:PORT", help="scheduler of a running cluster (default: a local cluster)"
    )


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_engine_arguments` as keyword arguments of `run_tasks`."""
    if args.dask_address and args.engine != "dask":
        raise UserError(f"--dask-address goes with --engine dask, not with {args.engine}")
    return {"engine": args.engine, "jobs": args.jobs, "dask_address": args.dask_address}


def run_tasks(
    function: Callable[..., Any],
    tasks: Iterable[tuple[Any, ...]],
    *,
    desc: str,
    total: int,
    unit: str = "slice",
    size: Callable[[Any], int] = lambda result: 1,
    shared: Iterable[Path] = (),
    shown: bool = True,
    engine: str = "loky",
    jobs: int = 1,
    dask_address: str | None = None,
) -> Generator[Any, None, None]:
    """Call `function(*task)` for each task, in parallel, and yield the results in the order of the tasks.

    Tasks are taken from the iterable as workers become free. Progress is shown in units, `total` of them; `size` gives
    the number of units that a result stands for. shown: whether progress is. shared: paths that every worker must see.
    Raises UserError if workers die, are not available, or do not see these paths.
    """
    engine = "serial" if engine == "loky" and jobs == 1 else engine
    places = [str(path.resolve()) for path in shared]
    call = delayed(function) if engine != "loky" else partial(delayed(_unless_orphaned), os.getpid(), function)
    at_work = ENGINES[engine](jobs, dask_address, places)
    with at_work as started, progress(desc=desc, total=total, unit=unit, shown=shown) as bar:
        results = Parallel(return_as="generator")(call(*task) for task in tasks)
        started()
        try:
            for result in results:
                bar.update(size(result))
                yield result
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker process died, most often for want of memory; try fewer jobs and {GO_ON}"
            ) from error
        finally:
            results.close()


def _unless_orphaned(parent: int, function: Callable[..., Any], *task: Any) -> Any:
    """Run a task, unless the parent was killed: its workers would otherwise go on with the tasks they already have.

    Ctrl-C reaches the workers of a terminal too; the parent, which ends them, says so alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(0)
    return function(*task)


@contextmanager
def _serial(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[Callable[[], None]]:
    with parallel_config(backend="sequential", n_jobs=1):
        yield _nothing


@contextmanager
def _loky(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[Callable[[], None]]:
    # if workers end early, loky's helper process may warn about their resources, after the line with the actual error
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    with parallel_config(
        backend="loky",
        n_jobs=jobs,
        temp_folder=str(scratch_folder()),
        initializer=_end_with,
        initargs=(os.getpid(),),
    ):
        yield note_semaphores


@contextmanager
def _dask(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[Callable[[], None]]:
    with dask_engine(jobs, dask_address, shared):
        yield _nothing


def _nothing() -> None:
    pass


def _end_with(parent: int) -> None:
    """Let a worker end soon after its parent was killed; idle ones would stay for minutes, with what they share."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


# What an engine yields is called when its workers have been started.
ENGINES: dict[str, Callable[[int, str | None, list[str]], AbstractContextManager[Callable[[], None]]]] = {
    "serial": _serial,
    "loky": _loky,
    "dask": _dask,
}
