import errno
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from src.files.atomic import held_by_one_run, replacing, replacing_folder, sweep_partials


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_file_appears_and_is_replaced(tmp_path: Path) -> None:
    _write(tmp_path / "made/file.txt", "one")
    _write(tmp_path / "made/file.txt", "two")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["file.txt"]
    assert (tmp_path / "made/file.txt").read_text() == "two"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:  # noqa: PT012 - the failure comes in the middle
        temporary.write_text("half of it")
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_nothing_is_at_the_place_before_all_of_it_is(tmp_path: Path) -> None:
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".txt"
        assert not (tmp_path / "file.txt").exists()


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path, sweep=False) as one, replacing(path, sweep=False) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() in ("one", "other")


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (
        ".file.0a.partial.txt",
        ".file.77.partial.txt",
        ".other.0a.partial.txt",
        ".file.0a.txt",
        ".f[i]le.1.partial.txt",
    ):
        (tmp_path / name).touch()
    _write(tmp_path / "file.txt", "x")
    _write(tmp_path / "f[i]le.txt", "x")
    assert {path.name for path in tmp_path.glob(".*")} == {".other.0a.partial.txt", ".file.0a.txt"}
    sweep_partials(tmp_path)
    assert {path.name for path in tmp_path.glob(".*")} == {".file.0a.txt"}


def test_an_error_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error, replacing(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "file.txt")
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "file.txt"):
        pass  # nothing was written
    assert missing.value.filename == str(tmp_path / "file.txt")


def test_a_second_run_waits_for_the_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    order = []

    def second() -> None:
        with held_by_one_run(tmp_path / "store"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with held_by_one_run(tmp_path / "store"):
        waiting.start()
        with held_by_one_run(tmp_path / "other"):  # nobody holds this one
            waiting.join(timeout=0.3)
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]
    assert capfd.readouterr().err == f"{tmp_path}/store is being filled by another run; waiting for its end\n"


def test_what_another_run_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as live:
        live.write_text("one")
        script = (
            "import sys; from pathlib import Path; from src.files.atomic import replacing, sweep_partials; "
            "path = Path(sys.argv[1]); sweep_partials(path.parent)\n"
            "with replacing(path) as temporary: temporary.write_text('other')"
        )
        subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[2], check=True)
        assert path.read_text() == "other"
        assert live.read_text() == "one"
    assert path.read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_two_runs_that_write_the_same_file_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    script = (
        "import sys; from pathlib import Path; from src.files.atomic import replacing; path = Path(sys.argv[1])\n"
        "for _ in range(300):\n"
        "    with replacing(path) as temporary: temporary.write_text('x')"
    )
    command = [sys.executable, "-c", script, str(path)]
    runs = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [(b"", 0)] * 3
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_a_stop_between_two_renames_leaves_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "file").write_text("old")
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes at the end
        patched.setattr(Path, "rename", rename)
        with replacing_folder(folder) as temporary:
            (temporary / "file").write_text("new")
    assert (folder / "file").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["detector"]


def test_without_locks_what_others_may_be_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("src.files.atomic.fcntl.flock", no_locks)
    with replacing(tmp_path / "file.txt") as one:
        one.write_text("one")
        _write(tmp_path / "file.txt", "other")
    assert (tmp_path / "file.txt").read_text() == "one"


def test_a_folder_that_is_deleted_while_a_run_waits(tmp_path: Path) -> None:
    order, folder = [], tmp_path / "store"

    def second() -> None:
        with held_by_one_run(folder, wait_s=0.01):
            order.append("second")
            assert folder.is_dir()

    waiting = threading.Thread(target=second)
    with held_by_one_run(folder):
        waiting.start()
        time.sleep(0.1)
        folder.rmdir()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
