import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from src.files.layout import Layout
from src.files.tables import read_table

DASK = str(Path(sys.executable).parent / "dask")


class Cluster(NamedTuple):
    address: str
    workers: list[subprocess.Popen]
    scheduler: subprocess.Popen


@contextmanager
def _cluster(folder: Path, repository: Path) -> Iterator[Cluster]:
    """A dask scheduler and two workers, real processes on loopback."""
    from distributed import Client

    file, log = folder / "scheduler.json", (folder / "log").open("w")
    common = {"cwd": repository, "stdout": log, "stderr": log, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    scheduler = subprocess.Popen(
        [DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        **common,
    )
    worker = [DASK, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker += ["--local-directory", str(folder)]
    workers = [subprocess.Popen(worker, **common) for _ in range(2)]
    try:
        for _ in range(300):
            if file.is_file() and file.read_text():
                break
            time.sleep(0.1)
        with Client(scheduler_file=str(file), timeout="30s") as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield Cluster(address, workers, scheduler)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
        log.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Cluster]:
    with _cluster(tmp_path_factory.mktemp("cluster"), repository) as running:
        yield running


@pytest.fixture
def mortal_cluster(tmp_path: Path, repository: Path) -> Iterator[Cluster]:
    """A cluster of one test's own, whose workers it may kill."""
    (tmp_path / "cluster").mkdir()
    with _cluster(tmp_path / "cluster", repository) as running:
        yield running


@pytest.fixture
def table(preprocessed: Layout) -> pd.DataFrame:
    """The training table of the tiny competition."""
    return read_table(preprocessed.table("train"), [], step="")


@pytest.fixture
def long_table(table: pd.DataFrame) -> pd.DataFrame:
    """The same slices again and again, under other names: 150 series, enough to be stopped in the middle of."""
    readable = table[table["columns"] == 64].drop_duplicates("SeriesInstanceUID").head(6)
    copies = []
    for number in range(150):
        ids = [f"ID_{number:04x}{i:04x}" for i in range(len(readable))]
        copies.append(readable.assign(ID=ids, SeriesInstanceUID=f"ID_{number:04x}", z_index=range(len(readable))))
    return pd.concat(copies, ignore_index=True)


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """What is in a folder, by name."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
