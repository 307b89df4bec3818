"""How a command ends: one line on stderr and an exit status, no traceback for a user's mistake."""

import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

DONE = 0
FAULT = 1  # of this program
USER_MISTAKE = 2
STOPPED_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: what was wrong, what was expected, what was found.

    step: the step of the pipeline that makes, or renews, what is wrong ("preprocess", "train", "predict", "sequence",
    "ensemble", "export"). The command that fails names its script; a library need not know of scripts.
    """

    def __init__(self, message: str, *, step: str | None = None) -> None:
        super().__init__(message)
        self.step = step

    def in_one_line(self) -> str:
        """The message with what to do."""
        remedy = f"; run sh bin/{self.step}.sh" if self.step else ""
        return " ".join(f"{self}{remedy}".split())


class NotEnoughDisk(UserError):  # noqa: N818 - it names the state of the disk
    """The disk has no room for what is to be written."""


@contextmanager
def advising(kind: type[UserError], advice: str) -> Iterator[None]:
    """Add to errors of a kind what the user of this command can do, such as which argument to give."""
    try:
        yield
    except kind as error:
        error.args = (f"{error}; {advice}",)
        raise


class Stopped(BaseException):
    """The run was asked to stop (SIGTERM) and has saved what it needs to go on.

    Like KeyboardInterrupt it is no Exception: code that survives whatever a damaged file raises must not survive this.
    """


def shortened(text: object, most: int = 200) -> str:
    """A text for an error's one line, cut where it is longer than a line should be."""
    line = str(text)
    return line if len(line) <= most else f"{line[:most]}..."


def first_few(items: Iterable[object], limit: int = 3) -> str:
    """Name the first few of many things for an error's one line: `a, b, c and 7 more`."""
    names = [shortened(item, 120) for item in items]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class _Console(logging.Handler):
    """Reports go to stdout, warnings to stderr, as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(self.format(record), file=stream, flush=True)


def show_log() -> None:
    """Show what the library reports. Of several processes only the first does; the others would repeat it."""
    for name in ("src", "__main__"):  # a module that is run has the second name
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(_Console())
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)


_stop_requested = False


def check_stop() -> None:
    """Raise Stopped if SIGTERM has come. Loops call this between two items.

    The handler raises it too, but Python drops an exception that comes while it forks a process or deletes an object.
    """
    if _stop_requested:
        raise Stopped("the same command goes on from what is finished")


def stop_requested() -> bool:
    """Whether SIGTERM has come, for a loop that has something to save first."""
    return _stop_requested


def _stop_on_sigterm() -> None:
    """End by an exception, so that temporary files and worker processes are cleaned up on the way out."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        global _stop_requested
        if os.getpid() != owner:  # a forked worker: its owner ends it
            os._exit(128 + number)
        _stop_requested = True
        check_stop()

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # which a script sets that sends SIGTERM in its place
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a module's `main` and exit with the status that its end stands for."""
    _stop_on_sigterm()
    show_log()
    try:
        status, line = _run(main)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # what is left is the exit, which is not worth interrupting
            signal.signal(number, signal.SIG_IGN)
    if line:
        print(line, file=sys.stderr, flush=True)
    sys.exit(status)


def _run(main: Callable[[], None]) -> tuple[int, str]:
    """Run `main`: (exit status, last line for stderr)."""
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # most mistakes occur in all processes: the first says so, and ends the others before they repeat it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(3)
        # an error in a data loader's worker comes with the worker's traceback around it
        return USER_MISTAKE, f"error: {error.in_one_line().rsplit('UserError: ', 1)[-1]}"
    except OSError as error:
        # a full disk, a missing permission, a folder where a file should be: the machine's message, without a traceback
        place = f"{error.filename}: " if error.filename else ""
        return USER_MISTAKE, f"error: {place}{error.strerror or error}"
    except MemoryError as error:
        return USER_MISTAKE, f"error: the machine has too little memory{f' ({error})' if str(error) else ''}"
    except Stopped as stopped:
        return STOPPED_RESUMABLE, f"stopped: {stopped}"
    except KeyboardInterrupt:
        return 128 + signal.SIGINT, "stopped: interrupted"
    except Exception as error:  # noqa: BLE001 - a fault of this program, whatever it is
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return FAULT, f"error: {shortened(what, 300)}; the traceback is in {_keep_traceback(error)}"
    return DONE, ""


def _keep_traceback(error: Exception) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="intracranial-hemorrhage-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
