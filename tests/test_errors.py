import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from torch.utils.data import DataLoader, Dataset

from src import errors
from src.errors import Stopped, UserError, first_few, run_command
from src.files.tables import write_table
from src.progress import progress


def _raise(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (Stopped("go on later"), 75, "stopped: go on later\n"),
        (KeyboardInterrupt(), 130, "stopped: interrupted\n"),
    ],
)
def test_ends_with_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(_raise(error))
    assert ended.value.code == status
    assert capsys.readouterr().err == line


def test_a_mistake_met_by_a_loaders_worker_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        list(DataLoader(_Missing(), num_workers=1))

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: ID_1 is missing\n"


class _Missing(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise UserError("ID_1 is missing")


def test_what_the_machine_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: write_table(pd.DataFrame({"ID": []}), tmp_path / "file" / "t.parquet"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_fault_of_ours_is_one_line_that_names_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(_raise(ZeroDivisionError("by\nzero")))
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ZeroDivisionError: by zero; the traceback is in ")
    log = Path(line.rsplit(" in ", 1)[1])
    assert "in main" in log.read_text()
    log.unlink()


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(_raise(MemoryError()))
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: the machine has too little memory\n")


def test_first_few() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(range(5)) == "0, 1, 2 and 2 more"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_drops_is_met_by_the_next_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class _Forking:
        def __del__(self) -> None:  # Python drops what is raised here, as it does while it forks a process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def main() -> None:
        for i in progress(range(5), desc="counting"):
            seen.append(i)
            if i == 2:
                _Forking()

    seen: list[int] = []
    monkeypatch.setattr(errors, "_requested", 0)
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert (ended.value.code, seen) == (75, [0, 1, 2])
    assert "stopped: the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["imports", "exit"])
def test_signals_in_the_first_and_the_last_moments(
    tmp_path: Path, repository: Path, number: signal.Signals, when: str
) -> None:
    # a module of src in all but its place, which is slow to import, or slow to end
    command = tmp_path / "slow.py"
    slow = "print('now', flush=True); time.sleep(0.6)"
    first, last = (slow, "pass") if when == "imports" else ("pass", slow)
    command.write_text(
        f"import sys; sys.argv[0] = '-m'\nimport src\nimport atexit, time\n{first}\n"
        f"from src.errors import run_command\ndef end():\n    {last}\natexit.register(end)\nrun_command(lambda: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(command)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    stopped = 75 if number == signal.SIGTERM else 130
    assert (process.returncode, said) == ((stopped if when == "imports" else 0), "")


def test_ctrl_c_that_is_dropped_is_met_by_the_next_item(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        for i in progress(range(5), desc="counting"):
            seen.append(i)
            if i == 2:
                with contextlib.suppress(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.05)

    seen: list[int] = []
    monkeypatch.setattr(errors, "_requested", 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job of a script it is ignored
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert (ended.value.code, seen) == (130, [0, 1, 2])
    assert "stopped: interrupted" in capsys.readouterr().err


def test_a_second_sigterm_does_not_cut_the_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            saved.append(True)

    saved: list[bool] = []
    monkeypatch.setattr(errors, "_requested", 0)
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert (ended.value.code, saved) == (75, [True])


@pytest.mark.parametrize(("stop", "status"), [(Stopped("x"), 75), (KeyboardInterrupt(), 130)])
def test_an_error_on_the_way_out_of_a_stop_is_a_stop(stop: BaseException, status: int) -> None:
    def main() -> None:
        try:
            raise stop
        finally:
            raise RuntimeError("a worker was told too")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == status
