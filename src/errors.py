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


class Stopped(Exception):  # noqa: N818 - it is no error, but an end
    """The run was asked to stop (SIGTERM) and has saved what it needs to go on."""


def first_few(items: Iterable[object], limit: int = 3) -> str:
    """Name the first few of many things for an error's one line: `a, b, c and 7 more`."""
    names = [str(item) for item in items]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a module's `main` and exit with the status that its end stands for."""
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # of several processes all meet most mistakes: the first says so, and ends the others before they repeat it
            time.sleep(3)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USER_MISTAKE)
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(STOPPED_RESUMABLE)
    except KeyboardInterrupt:
        print("stopped: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    sys.exit(DONE)
