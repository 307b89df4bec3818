"""Decoding of compressed images, in a process of its own.

Decoders are C++ libraries that a damaged file can make abort, crash or run for ever. The death of that process costs
one file; the next file starts another. It keeps running between files and shares memory with its parent, so that a
sound image costs two copies and a short message each way. A refused image may have spoiled a decoder's memory without
its death, so that process only forks those that decode, and after a refusal forks another, which takes milliseconds.
"""

import atexit
import contextlib
import ctypes
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes

from src.dicom.file import MAX_BYTES, UnreadableDicom
from src.dicom.header import MAX_PIXELS
from src.errors import shortened
from src.memory import keep_memory

_MAX_SECONDS = 60  # of one image; the slowest decoder takes 0.1 s for 512 x 512
_TOO_LONG = f"the decoder took more than {_MAX_SECONDS} s"
_MAX_MEMORY = 1 << 30  # bytes that decoding may take beyond what the libraries themselves do
# bytes of shared memory, taken as they are used: a compressed image, then its cells
_SHARED = MAX_BYTES + 4 * MAX_PIXELS
_REFUSED = 3  # the status of a process that ends because it has refused an image
_PR_SET_PDEATHSIG = 1  # sys/prctl.h: the signal that a process gets when its parent ends


@dataclass(frozen=True)
class FrameHeader:
    """What a decoder has to know besides the compressed image."""

    transfer_syntax: str
    rows: int
    columns: int
    bits_allocated: int
    precision: int  # bits of a sample in the compressed image


def decode(frame: bytes, header: FrameHeader) -> np.ndarray:
    """Decode a compressed monochrome image: (rows, columns) of an unsigned type, the cells as the decoder gives them.

    It runs in this process's decoder process, which the first call starts. Raises UnreadableDicom ("undecodable") if
    the decoder refuses the image, dies of it twice, or takes more than a minute, and OSError where no process can be
    started.
    """
    with _lock:
        try:
            return _process().decode(frame, header)
        except _Died as died:
            if str(died) == _TOO_LONG:
                raise UnreadableDicom("undecodable", _TOO_LONG) from None
        try:  # what ended it may have had nothing to do with the image, such as a lack of memory
            return _process().decode(frame, header)
        except _Died as died:
            raise UnreadableDicom("undecodable", str(died)) from None


def decode_here(frame: bytes, header: FrameHeader) -> np.ndarray:
    """Decode like `decode`, but in this process. Raises what the decoder raises, and may end the process."""
    uid = UID(header.transfer_syntax)
    plugin = "pylibjpeg" if uid in JPEG2000TransferSyntaxes or uid.name.startswith("High-Throughput") else "gdcm"
    if uid.name.startswith("RLE"):
        plugin = "pydicom"
    image: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.precision,
        "pixel_keyword": "PixelData",
        # cells, not values: `pixels` takes the bits and the sign out of them in the same way for all transfer syntaxes
        "pixel_representation": 0,
        "apply_jls_sign_correction": False,
        "apply_j2k_sign_correction": False,
        "correct_unused_bits": False,
    }
    decoder = get_decoder(uid)
    pixels, _ = decoder.as_array(encapsulate([frame]), index=0, raw=True, decoding_plugin=plugin, **image)
    return np.ascontiguousarray(pixels.view(f"u{pixels.dtype.itemsize}"))


def serve(messages: int, memory: int) -> None:
    """Decode what is asked for until the other end of a socket closes. This is what the decoder process does.

    messages, memory: file descriptors of the socket, and of the memory that holds compressed images and takes cells.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the process that it works for
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its parent may have left it ignored or blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    warnings.simplefilter("ignore")
    logging.disable()
    keep_memory()
    shared, connection = mmap.mmap(memory, _SHARED), Connection(messages)
    _limit_memory()
    with contextlib.suppress(OSError):
        connection.send_bytes(b"ready")
        while (ended := _in_a_fork(connection, shared)) == _REFUSED:
            pass
        if ended < 0:  # by a signal: so that our parent learns of it, this process ends likewise
            os.kill(os.getpid(), -ended)
        os._exit(abs(ended))


def _in_a_fork(connection: Connection, shared: mmap.mmap) -> int:
    """Decode in a forked process until it refuses an image or ends: _REFUSED, 0, another status or minus a signal."""
    template = os.getpid()
    worker = os.fork()
    if worker:
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == template:
            status = _decode_until_refused(connection, shared)
    finally:
        os._exit(status)


def _decode_until_refused(connection: Connection, shared: mmap.mmap) -> int:
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = json.loads(connection.recv_bytes())
            if question is None:
                return _REFUSED
            length, header = question
            signal.alarm(_MAX_SECONDS)  # ends this process
            try:
                pixels = decode_here(shared[:length], FrameHeader(**header))
                np.frombuffer(shared, pixels.dtype, pixels.size, MAX_BYTES)[:] = pixels.ravel()
            except Exception as error:  # noqa: BLE001 - whatever a decoder raises is its answer
                answer: dict[str, object] = {"error": _in_words(error)}
            else:
                answer = {"kind": pixels.dtype.str, "shape": pixels.shape}
            signal.alarm(0)
            connection.send_bytes(json.dumps(answer).encode())
            if "error" in answer:
                return _REFUSED
    return 0


def _in_words(error: Exception) -> str:
    # pydicom's frame around what a decoder says; GDCM says nothing, and returns nothing
    said = str(error).removeprefix("Unable to decode as exceptions were raised by all available plugins:").strip()
    return "gdcm: no pixels" if "NoneType" in said else f"{type(error).__name__}: {said}"


def _limit_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + _MAX_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


class _Died(Exception):  # noqa: N818 - it names what happened
    """The process ended in the middle of an image."""


class _Process:
    """A running decoder process, the socket to it, and the memory that it shares with this one."""

    def __init__(self) -> None:
        global _newest
        package = str(Path(__file__).parents[2])
        # no fork meanwhile: it would have the decoder's end of the socket, and hide the decoder's death
        with _starting, contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            stack.enter_context(ours)
            memory, printed = os.memfd_create("decoder"), os.memfd_create("printed")
            stack.callback(os.close, memory)
            # what libraries print: it belongs into the message, not into the middle of ours
            self._printed = open(printed, "r+b", buffering=0)  # noqa: PTH123, SIM115 - open while the process runs
            os.truncate(memory, _SHARED)
            self._shared = mmap.mmap(memory, _SHARED)
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                # -P: a folder named src where the command runs is another one
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({theirs.fileno()}, {memory})"],
                pass_fds=[theirs.fileno(), memory],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
                start_new_session=True,  # signals to the group of a command are not for it
            )
            self._connection = Connection(ours.detach())
            _newest = self
        try:
            self._answer()
        except _Died as error:
            raise ChildProcessError(f"the process that decodes images did not start: {self._said()}") from error

    def decode(self, frame: bytes, header: FrameHeader) -> np.ndarray:
        """Decode an image. Raises UnreadableDicom where the decoder refuses it, and _Died."""
        try:
            self._shared[: len(frame)] = frame
            try:
                self._connection.send_bytes(json.dumps([len(frame), asdict(header)]).encode())
            except (BrokenPipeError, ConnectionResetError) as error:
                raise _Died from error
            answer = json.loads(self._answer())
        except _Died:
            raise _Died(self._how_it_ended()) from None
        except BaseException:  # a signal's, between question and answer
            self.close()
            raise
        said = self._said()
        if "error" in answer:
            raise UnreadableDicom("undecodable", _with(answer["error"], said))
        if "Corrupt JPEG data" in said:  # libjpeg makes up the rest of the image
            with contextlib.suppress(OSError):  # where it has just ended, the next image finds out
                self._connection.send_bytes(b"null")  # it does not know that it has refused an image
            raise UnreadableDicom("undecodable", said)
        rows, columns = answer["shape"]
        cells = np.frombuffer(self._shared, answer["kind"], rows * columns, MAX_BYTES)
        return cells.reshape(rows, columns).copy()

    def _answer(self) -> bytes:
        try:
            if not self._connection.poll(_MAX_SECONDS + 10):  # it ends itself before that
                self._process.kill()
            return self._connection.recv_bytes()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise _Died from error

    def _how_it_ended(self) -> str:
        self._connection.close()  # it ends now, if it has not yet
        status = self._process.wait()
        if status == -signal.SIGALRM:
            return _TOO_LONG
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return _with(f"the decoder was ended {how}", self._said())

    def _said(self) -> str:
        """What the process printed, shortened; afterwards it counts as read."""
        self._printed.seek(0)
        text = " ".join(self._printed.read(4096).decode(errors="replace").split())
        self._printed.seek(0)
        self._printed.truncate(0)
        return shortened(text, 300)

    def runs(self) -> bool:
        """Whether it waits for images."""
        return not self._connection.closed and self._process.poll() is None

    def close(self) -> None:
        """End the process, if it still runs."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def leave_to_parent(self) -> None:
        """Close the copies that a forked process has, by which the decoder would outlive its parent."""
        self._connection.close()


def _with(message: str, said: str) -> str:
    return f"{message} ({said})" if said else message


_lock = threading.Lock()
_starting = threading.RLock()
_newest: _Process | None = None  # which may not have answered yet
_started: _Process | None = None
_inherited: _Process | None = None  # of the process that forked this one; kept, because dropping it would reach for it


def _process() -> _Process:
    global _started
    if _started is None or not _started.runs():
        if _started is None:
            atexit.register(_end)
        _started = _Process()
    return _started


def _end() -> None:
    if _started is not None:
        _started.close()


def _after_fork() -> None:
    """A forked process starts a decoder of its own: two must not talk to one."""
    global _lock, _starting, _newest, _started, _inherited
    for each in (_started, _newest):
        if each is not None:
            each.leave_to_parent()
    _lock, _starting, _started, _inherited, _newest = threading.Lock(), threading.RLock(), None, _newest, None
    atexit.unregister(_end)


os.register_at_fork(
    before=lambda: _starting.acquire(), after_in_parent=lambda: _starting.release(), after_in_child=_after_fork
)
