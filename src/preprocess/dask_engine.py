"""A dask cluster as an engine of joblib. No other module imports dask, so only its users need to install it."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from joblib import parallel_config

from src.errors import UserError, first_few

_log = logging.getLogger(__name__)

PATIENCE_S = 30  # how long to wait for a cluster that is starting or has lost its workers
LEAST_TASKS_AHEAD = 64
GO_ON = "give the same command again: it goes on from what is finished"


@contextmanager
def dask_engine(jobs: int, address: str | None, shared: list[str]) -> Iterator[None]:
    """Let joblib work on the cluster at an address, or without one on a local cluster of `jobs` workers.

    shared: paths that every worker must see. Raises UserError if the cluster or its workers are not available.
    """
    try:
        from distributed import Client, KilledWorker, LocalCluster
        from distributed.client import FutureCancelledError
    except ImportError:
        raise UserError("the engine dask needs the packages of requirements-dask.txt") from None
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the errors below report the same in one line
    try:
        cluster: Any = address or LocalCluster(
            n_workers=jobs, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
        )
        client = Client(cluster, timeout=PATIENCE_S)
    except (OSError, ValueError) as error:
        raise UserError(f"no dask scheduler answers at {address}: {error}") from error
    with nullcontext() if address else _closing(cluster), client:
        _prepare(client, shared)
        backend = _backend(client)
        try:
            with parallel_config(backend=backend, n_jobs=-1), _watching(client, backend):
                yield
        except KilledWorker as error:
            raise UserError(f"the same task ended several workers, most often for want of memory: {error}") from error
        except FutureCancelledError as error:
            raise UserError(f"the cluster is lost ({error.reason}); {GO_ON}") from error
        except RuntimeError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise UserError(f"scheduler or workers lack what is needed here: {error.__cause__}") from error
            raise


def _prepare(client: Any, shared: list[str]) -> None:
    """Wait for workers, make this code importable on them, and check that they see the shared paths."""
    from distributed import WorkerPlugin

    # scheduler and workers may have been started in any folder; a plugin also runs on workers that join later
    find_us = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})"

    class FindUs(WorkerPlugin):
        name = "intracranial-hemorrhage"

        def setup(self, worker: Any) -> None:
            exec(find_us)  # noqa: S102 - the line above

    try:
        client.wait_for_workers(1, timeout=PATIENCE_S)
    except TimeoutError as error:
        raise UserError("the dask scheduler has no workers; start some (docs/cluster.md)") from error
    found = len(client.scheduler_info(n_workers=-1)["workers"])
    _log.warning("dask: %d workers at %s", found, client.scheduler.address)
    client.run_on_scheduler(exec, find_us)
    client.register_plugin(FindUs())
    for place in shared:
        blind = [worker for worker, sees in client.run(os.path.exists, place).items() if not sees]
        if blind:
            raise UserError(f"the workers {first_few(blind)} do not see {place}; it must lie on a disk they share")


def _backend(client: Any) -> Any:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        """joblib's dask backend with two corrections (joblib 1.6.0)."""

        def __init__(self) -> None:
            super().__init__(client=client)
            self.under_way: set[Any] = set()  # futures

        def effective_n_jobs(self, n_jobs: int) -> int:
            # joblib calls this once, at the start: with a single worker it would do the work in this process, and with
            # few workers it would submit too few tasks for those that join later
            return max(LEAST_TASKS_AHEAD, super().effective_n_jobs(n_jobs))

        def submit(self, func: Any, callback: Any = None) -> Any:
            # without the second callback, joblib would not learn that the cluster gave up a task
            future = super().submit(func, callback)
            self.under_way.add(future)
            future.add_done_callback(self.under_way.discard)
            future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
            return future

    return Backend()


@contextmanager
def _watching(client: Any, backend: Any) -> Iterator[None]:
    """End the work if the cluster has lost all its workers and none comes back; dask itself would wait for ever."""
    ended = threading.Event()

    def watch() -> None:
        alone_since = None
        while not ended.wait(1):
            try:
                alone = client.status == "running" and not client.scheduler_info(n_workers=-1)["workers"]
            except OSError:  # the scheduler is lost, and the tasks report that themselves
                return
            alone_since = (alone_since or time.monotonic()) if alone else None
            if alone_since is not None and time.monotonic() - alone_since > PATIENCE_S:
                for future in list(backend.under_way):
                    future.set_exception(UserError(f"the cluster has had no workers for {PATIENCE_S} s; {GO_ON}"))
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # a worker that is just being restarted cannot be closed, and ends with this process; the resulting error must
        # not hide the one that ended the work
        with suppress(Exception):
            cluster.close()
