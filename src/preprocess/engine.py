"""The engines that preprocessing runs on, all through joblib: this process, its cores, or a cluster.

A task is a function's arguments: plain numbers, strings, tuples and lists, which every engine sends along with the
task itself. (Larger objects would be handed to one worker first, and be lost with it.)
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config

from src.arguments import positive
from src.errors import UserError, first_few
from src.progress import progress

_PATIENCE_S = 30  # with a cluster that is being started
_GO_ON = "give the same command again: it goes on from what is finished"


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, `--jobs` and `--dask-address`, which are also the names of `run_tasks`'s arguments."""
    parser.add_argument(
        "--engine", choices=list(ENGINES), default="loky", help="this process, its cores, or a cluster (default loky)"
    )
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="workers on this machine (all cores)")
    parser.add_argument(
        "--dask-address", metavar="tcp://HOST:PORT", help="the scheduler of a running cluster (default: a local one)"
    )


def engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_engine_arguments` parsed, as keyword arguments."""
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
    engine: str = "loky",
    jobs: int = 1,
    dask_address: str | None = None,
) -> Iterator[Any]:
    """Call `function(*task)` for each task, in parallel, and yield the results in the order of the tasks.

    Tasks are taken from their iterable as workers become free. Progress is shown in units, `total` of them; `size` says
    how many of them a result stands for. shared: what every worker must see. Raises UserError where workers die, cannot
    be had, or stand on another disk.
    """
    engine = "serial" if engine == "loky" and jobs == 1 else engine
    places = [str(path.resolve()) for path in shared]
    call = delayed(function) if engine != "loky" else partial(delayed(_unless_orphaned), os.getpid(), function)
    with ENGINES[engine](jobs, dask_address, places), progress(desc=desc, total=total, unit=unit) as shown:
        results = Parallel(return_as="generator")(call(*task) for task in tasks)
        try:
            for result in results:
                shown.update(size(result))
                yield result
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker process died, most often for want of memory; try fewer --jobs and {_GO_ON}"
            ) from error
        finally:
            results.close()


def _unless_orphaned(parent: int, function: Callable[..., Any], *task: Any) -> Any:
    """A task of a run that may have been killed: its workers would go on with what they were given."""
    if os.getppid() != parent:
        os._exit(0)
    return function(*task)


@contextmanager
def _serial(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[None]:
    with parallel_config(backend="sequential", n_jobs=1):
        yield


@contextmanager
def _loky(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[None]:
    # where workers are ended early, loky's helper process may warn of what they held, after the line that says why
    ignored = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [ignored, "ignore:resource_tracker:UserWarning"]))
    with parallel_config(backend="loky", n_jobs=jobs):
        yield


@contextmanager
def _dask(jobs: int, dask_address: str | None, shared: list[str]) -> Iterator[None]:
    try:
        from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise UserError("--engine dask needs dask: python -m pip install --requirement requirements-dask.txt") from None

    class Backend(DaskDistributedBackend):
        """joblib's own, which waits for ever for a task that the cluster gave up (joblib 1.6.0)."""

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
            return future

    # scheduler and workers must find this code wherever they were started; workers that join later too
    find_us = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})"

    class FindUs(WorkerPlugin):
        name = "intracranial-hemorrhage"

        def setup(self, worker: Any) -> None:
            exec(find_us)  # noqa: S102 - the line above

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it reports what comes out as one line below
    try:
        # unlike loky's, a cluster's workers are not asked for by number, they are there
        cluster: Any = dask_address or LocalCluster(
            n_workers=jobs, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        )
        client = Client(cluster, timeout=_PATIENCE_S)
    except (OSError, ValueError) as error:
        raise UserError(f"no dask scheduler answers at {dask_address}: {error}") from error
    with nullcontext() if dask_address else _closing(cluster), client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except TimeoutError as error:
            raise UserError(f"the scheduler {dask_address} has no workers; start some (docs/cluster.md)") from error
        client.run_on_scheduler(exec, find_us)
        client.register_plugin(FindUs())
        for place in shared:
            blind = [worker for worker, sees in client.run(os.path.exists, place).items() if not sees]
            if blind:
                raise UserError(f"the workers {first_few(blind)} do not see {place}; it must lie on a disk they share")
        try:
            with parallel_config(backend=Backend(client=client), n_jobs=-1):
                yield
        except KilledWorker as error:
            raise UserError(f"the same task ended several workers, most often for want of memory: {error}") from error
        except RuntimeError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise UserError(f"scheduler or workers lack what is needed here: {error.__cause__}") from error
            raise


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # a worker that was just being started anew cannot be closed, and ends with this process; what ended the work
        # must not be hidden by that
        with suppress(Exception):
            cluster.close()


ENGINES: dict[str, Callable[[int, str | None, list[str]], AbstractContextManager[None]]] = {
    "serial": _serial,
    "loky": _loky,
    "dask": _dask,
}
