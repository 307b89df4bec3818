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


_requested = 0  # the signal by which the run was asked to stop


def check_stop() -> None:
    """Raise Stopped if SIGTERM has come, KeyboardInterrupt after Ctrl-C. Loops call this between two items.

    The handlers raise them too, but Python drops an exception that comes while it forks a process or deletes an object.
    """
    if _requested == signal.SIGTERM:
        raise Stopped("the same command goes on from what is finished")
    if _requested == signal.SIGINT:
        raise KeyboardInterrupt


def stop_requested() -> bool:
    """Whether SIGTERM has come, for a loop that has something to save first."""
    return _requested == signal.SIGTERM


def _stop_on_signals() -> None:
    """End by an exception, so that temporary files and worker processes are cleaned up on the way out."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        global _requested
        if os.getpid() != owner and number == signal.SIGTERM:  # a forked worker: its owner ends it
            os._exit(128 + number)
        if _requested == signal.SIGTERM:
            return  # a whole group was told, and a script told us too: the first is being obeyed
        _requested = number
        check_stop()

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # which a script sets that sends SIGTERM in its place
        signal.signal(signal.SIGINT, stop)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a module's `main` and exit with the status that its end stands for."""
    _stop_on_signals()
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
    except (Stopped, KeyboardInterrupt) as stop:
        return _end_of(stop)
    except Exception as error:  # noqa: BLE001 - a fault of this program, whatever it is
        return _end_of(_stop_before(error) or error)
    return DONE, ""


def _end_of(error: BaseException) -> tuple[int, str]:
    match error:
        case Stopped():
            return STOPPED_RESUMABLE, f"stopped: {error}"
        case KeyboardInterrupt():
            return 128 + signal.SIGINT, "stopped: interrupted"
        case OSError():
            # a full disk, a missing permission, a folder where a file should be: the machine's message
            place = f"{error.filename}: " if error.filename else ""
            return USER_MISTAKE, f"error: {place}{error.strerror or error}"
        case MemoryError():
            return USER_MISTAKE, f"error: the machine has too little memory{f' ({error})' if str(error) else ''}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return FAULT, f"error: {shortened(what, 300)}; the traceback is in {_keep_traceback(error)}"


def _stop_before(error: BaseException) -> BaseException | None:
    """The stop during whose clean-up an error came, such as that of a worker that was told too."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, Stopped | KeyboardInterrupt):
        seen = seen.__context__
    return seen


def _keep_traceback(error: BaseException) -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="intracranial-hemorrhage-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
