"""Compressed images are decoded in a process of their own, whose death costs one file."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest
from pydicom.encaps import generate_frames

from src.dicom import UnreadableDicom, decoder, read_stored
from src.dicom.decoder import FrameHeader, decode
from src.errors import Stopped

CASES = Path(__file__).parent / "cases"
JPEG_LS, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.70"


def _frame(path: Path) -> bytes:
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


@pytest.fixture
def sound(tmp_path: Path) -> tuple[bytes, np.ndarray]:
    """A compressed image, and its cells."""
    data = (CASES / "nodelim_jls_u12_p12.dcm").read_bytes()
    whole = tmp_path / "whole.dcm"
    whole.write_bytes(data + b"\xfe\xff\xdd\xe0\0\0\0\0")
    return _frame(whole), read_stored(whole)[0]


def _decode(frame: bytes) -> np.ndarray:
    return decode(frame, FrameHeader(JPEG_LS, 64, 64, 16, 12))


def _processes() -> list[psutil.Process]:
    alive = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if "decoder import serve" in " ".join(each.cmdline())]


def _decoding() -> psutil.Process:
    """The process that decodes now, forked by the one that stays."""
    (template,) = _processes()
    (process,) = template.children()
    return process


@pytest.mark.parametrize(("name", "syntax"), [("abort_jls", JPEG_LS), ("segv_jll", JPEG_LOSSLESS)])
def test_a_decoder_that_dies_costs_one_file(name: str, syntax: str, sound: tuple[bytes, np.ndarray]) -> None:
    # as if its header had passed for a sound one
    with pytest.raises(UnreadableDicom, match=r"the decoder was ended by SIG|Error") as refused:
        decode(_frame(CASES / f"{name}.dcm"), FrameHeader(syntax, 64, 64, 16, 12))
    assert refused.value.reason == "undecodable"
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGALRM])
def test_however_it_ends(number: signal.Signals, sound: tuple[bytes, np.ndarray]) -> None:
    _decode(sound[0])
    process = _decoding()
    process.suspend()  # in the middle of an image
    ender = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -{number.value} {process.pid}; kill -CONT {process.pid}"])
    if number == signal.SIGALRM:
        with pytest.raises(UnreadableDicom, match="took more than 60 s"):
            _decode(sound[0])
    else:  # it was not the image's fault
        np.testing.assert_array_equal(_decode(sound[0]), sound[1])
    ender.wait()
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])
    assert _decoding().pid != process.pid


def test_it_stays_for_the_next_file_and_obeys_its_own_process_alone(sound: tuple[bytes, np.ndarray]) -> None:
    _decode(sound[0])
    (process,) = _processes()
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert os.getpgid(process.pid) != os.getpgrp()  # what a scheduler sends to all does not reach it
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])
    assert _processes() == [process]


def test_after_a_refusal_another_process_decodes(sound: tuple[bytes, np.ndarray]) -> None:
    _decode(sound[0])
    template, first = _processes(), _decoding()
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])
    assert _decoding() == first
    seconds = []
    for _ in range(5):
        with pytest.raises(UnreadableDicom, match="no pixels"):
            _decode(sound[0][: len(sound[0]) // 2])
        began = time.perf_counter()
        np.testing.assert_array_equal(_decode(sound[0]), sound[1])
        seconds.append(time.perf_counter() - began)
        assert _decoding() != first
        first = _decoding()
    assert _processes() == template
    assert min(seconds) < 0.2  # the start of Python and its imports would take longer


def test_a_fork_while_it_starts_does_not_hide_its_death(
    sound: tuple[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, forks = subprocess.Popen, []

    def fork() -> None:
        if not (child := os.fork()):
            time.sleep(30)
            os._exit(0)
        forks.append(child)

    thread = threading.Thread(target=fork)

    def popen(*arguments: Any, **how: Any) -> Any:
        thread.start()
        thread.join(timeout=0.2)
        return real(*arguments, **how)

    decoder._end()
    with monkeypatch.context() as patched:
        patched.setattr(decoder.subprocess, "Popen", popen)
        _decode(sound[0])
    thread.join()
    try:
        process = _decoding()
        process.suspend()
        ender = real(["sh", "-c", f"sleep 0.3; kill -KILL {process.pid}"])
        began = time.monotonic()
        np.testing.assert_array_equal(_decode(sound[0]), sound[1])
        assert time.monotonic() - began < 20
        ender.wait()
    finally:
        os.kill(forks[0], signal.SIGKILL)
        os.waitpid(forks[0], 0)


def test_what_a_decoder_prints_is_in_the_message(
    capfd: pytest.CaptureFixture[str], sound: tuple[bytes, np.ndarray]
) -> None:
    with pytest.raises(UnreadableDicom, match=r"SIGABRT \(terminate called after throwing .*\)$"):
        _decode(_frame(CASES / "abort_jls.dcm"))
    with pytest.raises(UnreadableDicom, match=r"^gdcm: no pixels$"):  # nothing of the file before
        _decode(sound[0][: len(sound[0]) // 2])
    jpeg_2000 = _frame(CASES / "j2k_junk_p16_u12.dcm")
    with pytest.raises(UnreadableDicom, match=r"^RuntimeError: pylibjpeg: .* failed to decode image$"):
        decode(jpeg_2000[:600], FrameHeader("1.2.840.10008.1.2.4.90", 64, 64, 16, 16))
    assert capfd.readouterr() == ("", "")


def test_a_stop_between_question_and_answer_mixes_nothing_up(
    sound: tuple[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    _decode(sound[0])

    def stop(data: str) -> None:
        raise Stopped("SIGTERM")

    with monkeypatch.context() as patched:
        patched.setattr(decoder.json, "loads", stop)
        with pytest.raises(Stopped):
            _decode(sound[0])
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])


def _in_a_fork(frame: bytes, expected: np.ndarray) -> None:
    for _ in range(20):
        assert (_decode(frame) == expected).all()


def test_forked_processes_have_their_own(sound: tuple[bytes, np.ndarray]) -> None:
    _decode(sound[0])  # one to inherit
    context = multiprocessing.get_context("fork")
    forks = [context.Process(target=_in_a_fork, args=sound) for _ in range(2)]
    for each in forks:
        each.start()
    _in_a_fork(*sound)
    for each in forks:
        each.join()
    assert [each.exitcode for each in forks] == [0, 0]


@pytest.mark.parametrize("how", ["", "; os._exit(0)", "; os.kill(os.getpid(), 9)"])
def test_it_ends_with_the_process_that_started_it(how: str, repository: Path) -> None:
    script = (
        "import os, psutil, sys; from pathlib import Path; from src.dicom import read_stored; "
        f"read_stored(Path({str(CASES / 'j2k_junk_p16_u12.dcm')!r})); "
        f"print(psutil.Process().children()[0].pid, flush=True){how}"
    )
    printed = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True)
    assert printed.stderr == ""
    for _ in range(100):
        if not psutil.pid_exists(int(printed.stdout)):
            return
        time.sleep(0.05)
    pytest.fail("the decoder goes on")


def test_a_process_that_cannot_start_is_no_fault_of_the_file(
    sound: tuple[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "_started", None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="did not start"):
        _decode(sound[0])


def test_memory_is_limited(sound: tuple[bytes, np.ndarray]) -> None:
    _decode(sound[0])
    (process,) = _processes()
    soft, _ = process.rlimit(psutil.RLIMIT_AS)
    assert process.memory_info().vms < soft < process.memory_info().vms + (2 << 30)
    assert os.getpid() == process.ppid()


def test_an_image_that_a_decoder_makes_up_is_refused(
    tmp_path: Path, compress: Callable[[Path, Path, str], None]
) -> None:
    compress(CASES / "mono2_same_values.dcm", tmp_path / "whole.dcm", "JPEGLosslessProcess14_1")
    frame = _frame(tmp_path / "whole.dcm")
    layout = FrameHeader(JPEG_LOSSLESS, 64, 64, 16, 12)
    assert decode(frame, layout).shape == (64, 64)
    with pytest.raises(UnreadableDicom, match="Corrupt JPEG data"):  # cut, but with its end marker
        decode(frame[: len(frame) * 6 // 10] + b"\xff\xd9", layout)


def test_a_signals_exception_does_not_hang(sound: tuple[bytes, np.ndarray]) -> None:
    def late(number: int, frame: object) -> None:
        raise TimeoutError("too late")

    _decode(sound[0])
    process = _decoding()
    process.suspend()
    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeoutError):
            _decode(sound[0])
    finally:
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(_decode(sound[0]), sound[1])


@pytest.mark.parametrize(
    "how",
    ["signal.signal(signal.SIGALRM, signal.SIG_IGN)", "resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))"],
)
def test_what_a_decoder_inherits(how: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()  # another package of that name where the command runs
    (tmp_path / "src/__init__.py").touch()
    script = tmp_path / "script.py"
    script.write_text(
        f"import resource, signal, sys; sys.path.insert(0, {str(repository)!r}); sys.path.remove({str(tmp_path)!r})\n"
        f"from pathlib import Path; from src.dicom import read_stored; {how}\n"
        f"print(read_stored(Path({str(CASES / 'j2k_junk_p16_u12.dcm')!r}))[0].shape)\n"
    )
    found = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("(64, 64)\n", "")


def test_failed_starts_leave_nothing_open(monkeypatch: pytest.MonkeyPatch, sound: tuple[bytes, np.ndarray]) -> None:
    monkeypatch.setattr(decoder, "_started", None)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="No such file"):
            _decode(sound[0])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
