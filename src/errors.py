"""How a command ends: one line on stderr and an exit status, no traceback for a user's mistake."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

DONE = 0
USER_MISTAKE = 2
STOPPED_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: what was wrong, what was expected, what to do."""


class Stopped(BaseException):
    """The run was asked to stop (SIGTERM) and has saved what it needs to go on.

    Like KeyboardInterrupt it is no Exception: code that survives whatever a damaged file raises must not survive this.
    """


def first_few(items: Iterable[object], limit: int = 3) -> str:
    """Name the first few of many things for an error's one line: `a, b, c and 7 more`."""
    names = [str(item) for item in items]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _stop_on_sigterm() -> None:
    """End by an exception, so that temporary files and worker processes are cleared away on the way out."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a forked worker: its owner ends it
            os._exit(128 + number)
        raise Stopped("the same command goes on from what is finished")

    signal.signal(signal.SIGTERM, stop)


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a module's `main` and exit with the status that its end stands for."""
    _stop_on_sigterm()
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # of several processes all meet most mistakes: the first says so, and ends the others before they repeat it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(3)
        # what a data loader's worker met comes with the worker's traceback around it
        text = str(error).rsplit("UserError: ", 1)[-1]
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except OSError as error:
        # a full disk, a missing permission, a folder where a file should be: what the machine says, without a traceback
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
