"""The command and its script: what they print, how they end, what they leave."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.study.conftest import Head

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(repository: Path, python: str, detector_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start the script with a folder for temporary files of its own: (process, the address that it prints)."""
    started = []
    (tmp_path / "tmp").mkdir()

    def _start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
        given = ["--detector", str(detector_folder), "--port", "0", "--no-maps", *map(str, arguments)]
        process = subprocess.Popen(
            ["sh", str(repository / "bin/serve.sh"), *given],
            cwd=tmp_path, env={**os.environ, "PYTHON": python, "TMPDIR": str(tmp_path / "tmp")}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield _start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _folders(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("intracranial-hemorrhage-run-")]


def _asked(address: str, headers: dict[str, str]) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_prints_an_address_with_a_token_reads_and_ends_at_once(
    start: Start,
    write_head: Head,
    tmp_path: Path,
) -> None:
    write_head(tmp_path / "in" / "Doe^Jane", 12, patient="MRN-4711")
    process, address = start("in")
    found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)/)\?token=([\w-]{32})", address)
    assert found, process.communicate()
    root, port, token = found.groups()
    with pytest.raises(OSError, match="refused"):  # on another address of this machine
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    assert _asked(root, {})[0] == 403
    known = {"Authorization": f"Bearer {token}"}
    end = time.monotonic() + 30
    while '"read"' not in _asked(f"{root}api/worklist", known)[1]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(_folders(tmp_path)) == 1
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 10  # also on a machine that is busy
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "4711" not in out + err
    assert "GET" not in out + err
    assert _folders(tmp_path) == []


def test_what_a_killed_run_left_is_deleted_by_the_next(
    start: Start,
    write_head: Head,
    tmp_path: Path,
) -> None:
    write_head(tmp_path / "in", 12)
    process, address = start("in")
    assert address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = _folders(tmp_path)
    assert len(left) == 1
    process, address = start()
    assert address.startswith("http://127.0.0.1:")
    assert len(_folders(tmp_path)) == 1
    assert _folders(tmp_path) != left
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert _folders(tmp_path) == []


def test_mistakes_are_one_line(repository: Path, python: str, detector_folder: Path, tmp_path: Path) -> None:
    def mistake(*arguments: object) -> str:
        command = ["sh", str(repository / "bin/serve.sh"), *map(str, arguments)]
        environment = {**os.environ, "PYTHON": python}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: ")
        return line

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = mistake("--port", port, "--detector", detector_folder)
    assert line == f"error: port {port} is taken; give another one with --port, or --port 0 for any that is free"
    (tmp_path / "empty").mkdir()
    assert "empty is no detector" in mistake("--port", "0", "--detector", "empty")
    assert "nowhere is missing; expected a DICOM file" in mistake("nowhere", "--port", "0")
    assert "--port" in mistake("--port", "70000")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "readings.csv").write_text("a,b\n")
    assert "other columns than readings" in mistake("--output", "out", "--port", "0")
