import os
import sys
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.preprocess.engine import ENGINES, run_tasks


@pytest.mark.parametrize("engine", ENGINES)
def test_results_come_in_the_order_of_the_tasks(engine: str) -> None:
    tasks = ((number, 2) for number in range(50))  # taken as they are needed
    assert list(run_tasks(pow, tasks, desc="", total=50, engine=engine, jobs=2)) == [n**2 for n in range(50)]


def test_a_running_cluster(cluster: Any) -> None:
    tasks = ((number, 2) for number in range(50))
    found = run_tasks(pow, tasks, desc="", total=50, engine="dask", dask_address=cluster.address)
    assert list(found) == [n**2 for n in range(50)]


def test_workers_that_do_not_share_the_disk(cluster: Any, tmp_path: Path) -> None:
    tasks = run_tasks(
        pow, [(1, 1)], desc="", total=1, engine="dask", dask_address=cluster.address, shared=[tmp_path / "x"]
    )
    with pytest.raises(UserError, match=r"the workers tcp.*, tcp.* do not see .*x; it must lie on a disk they share"):
        list(tasks)


@pytest.mark.parametrize(("engine", "jobs"), [("loky", 2), ("dask", 1), ("dask", 2)])
def test_the_work_is_done_by_the_workers(engine: str, jobs: int) -> None:
    found = set(run_tasks(os.getpid, [()] * 8, desc="", total=8, engine=engine, jobs=jobs))
    assert os.getpid() not in found


def test_progress_counts_units(capsys: pytest.CaptureFixture[str]) -> None:
    list(run_tasks(range, [(3,), (4,)], desc="counting", total=7, size=len, engine="serial"))
    assert "counting: 7 of 7" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["loky", "dask"])
def test_a_worker_that_dies_is_one_line(engine: str) -> None:
    with pytest.raises(UserError, match="most often for want of memory") as error:
        list(run_tasks(os._exit, [(3,), (3,)], desc="", total=2, engine=engine, jobs=2))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mistake_in_a_task_comes_out_as_it_is(engine: str) -> None:
    with pytest.raises(FileNotFoundError):
        list(run_tasks(os.stat, [("/none",)], desc="", total=1, engine=engine, jobs=2))


def test_no_scheduler() -> None:
    with pytest.raises(UserError, match="no dask scheduler answers at nonsense"):
        list(run_tasks(pow, [(1, 1)], desc="", total=1, engine="dask", dask_address="nonsense"))


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"the engine dask needs the packages of requirements-dask\.txt"):
        list(run_tasks(pow, [(1, 1)], desc="", total=1, engine="dask"))
