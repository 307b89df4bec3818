"""What killed runs leave outside the root: only what they noted as theirs goes, and only when they are dead."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil
import pytest

from src.files import scratch
from src.files.scratch import note_semaphores, scratch_folder

PREFIX = "intracranial-hemorrhage-run-"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders in place of /tmp and /dev/shm."""
    temporary, shared = tmp_path / "tmp", tmp_path / "shm"
    for folder in (temporary, shared):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(scratch, "_SEMAPHORES", shared)
    monkeypatch.setattr(scratch, "_folder_of", cache(scratch._folder_of.__wrapped__))
    return temporary, shared


def test_a_live_runs_folder_stays(places: tuple[Path, Path], repository: Path) -> None:
    folder = scratch_folder()
    assert folder == scratch_folder()
    assert folder.parent == places[0]
    (folder / "file").touch()
    command = [sys.executable, "-c", "from src.files.scratch import scratch_folder; print(scratch_folder())"]
    environment = {**os.environ, "TMPDIR": str(places[0])}
    other = subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True, text=True)
    assert other.stdout.strip() not in ("", str(folder))
    assert list(places[0].rglob("*")) == [folder, folder / "file"]


def test_what_is_dead_and_noted_goes(places: tuple[Path, Path]) -> None:
    temporary, shared = places
    names = [f"sem.loky-{os.getpid()}-abc_1", "sem.loky-1-of_another", "sem.mp-xyz", "joblib_memmapping_folder_1"]
    for name in names:
        (shared / name).touch()
    dead, alive = temporary / f"{PREFIX}dead", temporary / "another-programs"
    note_semaphores()
    own = scratch_folder()
    for folder in (dead, alive):
        shutil.copytree(own, folder)
    with (dead / "semaphores.txt").open("a") as noted:  # damage must not reach beyond the place
        noted.write("\nsem.mp-xyz\n../tmp/another-programs/semaphores.txt\n")
    (temporary / f"{PREFIX}link").symlink_to(alive)
    (temporary / f"{PREFIX}file.log").touch()
    scratch._folder_of.cache_clear()  # as in another process
    assert scratch_folder() != own
    assert not dead.exists()
    assert own.is_dir()
    assert sorted(path.name for path in shared.iterdir()) == sorted(names[1:])
    assert (alive / "semaphores.txt").is_file()
    assert (temporary / f"{PREFIX}file.log").is_file()


SCRIPT = """
import sys, time
from src.preprocess.engine import run_tasks
tasks = ((0.01,) for _ in range(int(sys.argv[1])))
for _ in run_tasks(time.sleep, tasks, desc="sleeping", total=1, engine="loky", jobs=2):
    print("works", flush=True)
"""


def _semaphores(pid: int) -> list[Path]:
    return list(scratch._SEMAPHORES.glob(f"sem.loky-{pid}-*"))


@pytest.mark.parametrize("all_of_it", [True, False], ids=["group", "parent"])
def test_a_killed_run_of_workers_leaves_nothing_for_long(repository: Path, tmp_path: Path, all_of_it: bool) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.Popen(
        [*command, "100000"],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"works\n"
    workers = psutil.Process(run.pid).children()
    assert _semaphores(run.pid)
    os.killpg(run.pid, signal.SIGKILL) if all_of_it else run.kill()
    run.wait()
    if all_of_it:
        assert _semaphores(run.pid)
        subprocess.run([*command, "1"], cwd=repository, env=environment, check=True, capture_output=True)
        assert not list(tmp_path.iterdir())
    else:  # the workers end, and the helper of theirs deletes what they shared
        psutil.wait_procs(workers, timeout=30)
    for _ in range(100):
        if not _semaphores(run.pid):
            return
        time.sleep(0.1)
    pytest.fail("the semaphores stay")
