"""How a command ends: one line on stderr and an exit status, no traceback for a user's mistake."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

DONE = 0
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


def _stop_on_sigterm() -> None:
    """End by an exception, so that temporary files and worker processes are cleaned up on the way out."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a forked worker: its owner ends it
            os._exit(128 + number)
        raise Stopped("the same command goes on from what is finished")

    signal.signal(signal.SIGTERM, stop)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a module's `main` and exit with the status that its end stands for."""
    _stop_on_sigterm()
    show_log()
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # most mistakes occur in all processes: the first says so, and ends the others before they repeat it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(3)
        # an error in a data loader's worker comes with the worker's traceback around it
        text = error.in_one_line().rsplit("UserError: ", 1)[-1]
        print(f"error: {text}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except OSError as error:
        # a full disk, a missing permission, a folder where a file should be: the machine's message, without a traceback
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(STOPPED_RESUMABLE)
    except KeyboardInterrupt:
        print("stopped: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    sys.exit(DONE)
