"""A run that is killed, stopped, doubled, or whose disk is full."""

import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.errors import UserError
from src.files.tables import write_table
from src.preprocess import create_dataset as module
from src.preprocess.create_dataset import create_dataset

Contents = Callable[[Path], dict[str, bytes]]


def _command(repository: Path, *arguments: object, **how: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "src.preprocess.create_dataset", *map(str, arguments)],
        cwd=repository,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},  # type: ignore[call-overload]
    )


def _wait_for_files(folder: Path, count: int) -> None:
    for _ in range(3000):
        if folder.is_dir() and sum(path.suffix == ".b2nd" for path in folder.iterdir()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} files in {folder}")


def test_kill_9_at_any_moment_loses_nothing(
    tmp_path: Path, long_table: pd.DataFrame, repository: Path, contents: Contents
) -> None:
    write_table(long_table, tmp_path / "table.parquet")
    create_dataset(long_table, tmp_path / "whole", engine="serial")
    moments = random.Random(0)  # noqa: S311
    interrupted = 0
    for attempt in range(3):
        store = tmp_path / f"store{attempt}"
        arguments = ("--table", tmp_path / "table.parquet", "--output", store, "--engine", "loky", "--jobs", 2)
        # no pipes: workers that outlive their killed parent a while would keep them open
        process = _command(repository, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_files(store, 1 + attempt)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()
        left = {path.name: path.stat().st_mtime_ns for path in store.glob("[!.]*.b2nd")}
        interrupted += not (store / "index.parquet").is_file()
        (store / ".ID_x.0123.partial.b2nd").write_bytes(b"half")  # as a worker leaves it that dies while it writes
        again = _command(repository, *arguments)
        _, errors = again.communicate()
        assert again.returncode == 0, errors
        assert contents(store) == contents(tmp_path / "whole")
        assert all((store / name).stat().st_mtime_ns == changed for name, changed in left.items())  # not made again
    assert interrupted >= 2  # else this shows nothing


def test_a_worker_of_a_cluster_is_killed(
    tmp_path: Path, long_table: pd.DataFrame, repository: Path, contents: Contents, mortal_cluster: Any
) -> None:
    write_table(long_table, tmp_path / "table.parquet")
    create_dataset(long_table, tmp_path / "whole", engine="serial")
    process = _command(
        repository, "--table", tmp_path / "table.parquet", "--output", tmp_path / "store",
        "--engine", "dask", "--dask-address", mortal_cluster.address,
    )  # fmt: skip
    _wait_for_files(tmp_path / "store", 10)
    mortal_cluster.workers[0].kill()
    assert not (tmp_path / "store/index.parquet").exists()  # in the middle
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_all_workers_of_a_cluster_are_killed(
    tmp_path: Path, long_table: pd.DataFrame, repository: Path, mortal_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.preprocess import dask_engine

    monkeypatch.setattr(dask_engine, "PATIENCE_S", 2)
    killer = threading.Thread(
        target=lambda: (_wait_for_files(tmp_path, 5), [worker.kill() for worker in mortal_cluster.workers])
    )
    killer.start()
    with pytest.raises(UserError, match="the cluster has had no workers for 2 s; give the same command again"):
        create_dataset(long_table, tmp_path, engine="dask", dask_address=mortal_cluster.address)
    killer.join()


def test_the_scheduler_of_a_cluster_is_killed(
    tmp_path: Path, long_table: pd.DataFrame, repository: Path, contents: Contents, mortal_cluster: Any
) -> None:
    write_table(long_table, tmp_path / "table.parquet")
    create_dataset(long_table, tmp_path / "whole", engine="serial")
    arguments = ("--table", tmp_path / "table.parquet", "--output", tmp_path / "store")
    process = _command(repository, *arguments, "--engine", "dask", "--dask-address", mortal_cluster.address)
    _wait_for_files(tmp_path / "store", 10)
    mortal_cluster.scheduler.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert errors.splitlines()[-1].startswith("error: the cluster is lost (scheduler-connection-lost)")
    assert "Traceback" not in errors
    again = _command(repository, *arguments, "--engine", "serial")
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@pytest.mark.parametrize("engine", ["serial", "loky"])
def test_sigterm_stops_in_a_resumable_state(
    tmp_path: Path, long_table: pd.DataFrame, repository: Path, contents: Contents, engine: str
) -> None:
    write_table(long_table, tmp_path / "table.parquet")
    arguments = ("--table", tmp_path / "table.parquet", "--output", tmp_path / "store", "--engine", engine, "--jobs", 2)
    process = _command(repository, *arguments)
    _wait_for_files(tmp_path / "store", 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1].startswith("stopped: ")
    assert "Traceback" not in errors
    assert not list((tmp_path / "store").glob(".*"))


def test_two_runs_at_once(tmp_path: Path, long_table: pd.DataFrame, repository: Path, contents: Contents) -> None:
    write_table(long_table, tmp_path / "table.parquet")
    create_dataset(long_table, tmp_path / "whole", engine="serial")
    arguments = ("--table", tmp_path / "table.parquet", "--output", tmp_path / "store", "--engine", "serial")
    runs = [_command(repository, *arguments) for _ in range(2)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_disk_that_is_too_small_is_told_before_the_work(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    full_size = pd.concat([table.assign(rows=512, columns=512)] * 100).iloc[:4700]
    with pytest.raises(UserError, match=r"will take about 418.3 MB more, and its disk has 3.0 MB free"):
        create_dataset(full_size, tmp_path, engine="serial")
    assert list(tmp_path.glob("*.b2nd")) == []


@pytest.mark.parametrize("engine", ["serial", "loky"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, table: pd.DataFrame, repository: Path, engine: str
) -> None:
    write_table(table, tmp_path / "table.parquet")
    size = 6000  # a store's file of five slices is larger
    process = _command(
        repository, "--table", tmp_path / "table.parquet", "--output", tmp_path / "store", "--engine", engine,
        "--jobs", 2, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert re.fullmatch(rf"error: {tmp_path}/store/\S+\.b2nd: File too large", errors.splitlines()[-1])
    assert "Traceback" not in errors
    assert not list((tmp_path / "store").glob(".*"))
    assert all(path.stat().st_size <= size for path in (tmp_path / "store").iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path, table: pd.DataFrame, repository: Path) -> None:
    write_table(table, tmp_path / "table.parquet")
    (tmp_path / "file").touch()
    process = _command(repository, "--table", tmp_path / "table.parquet", "--output", tmp_path / "file/store")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == f"error: {tmp_path}/file/store: Not a directory\n"
