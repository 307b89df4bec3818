"""Progress of a long step: a bar in a terminal, and occasional plain lines where there is none (a log, CI) or where it
says that it can't redraw a line (TERM=dumb).
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from tqdm import tqdm

from src.errors import check_stop

PLAIN_INTERVAL_S = 15.0

# Who is told how far a long step is, (done, of how many), between two items. What it raises ends the step.
Watch: TypeAlias = Callable[[int, int], None]


def unwatched(done: int, total: int) -> None:
    """A Watch that does nothing."""


class _Bar(tqdm):
    """tqdm's bar, of a loop that ends where the run is asked to stop."""

    def update(self, n: float | None = 1) -> bool | None:
        check_stop()
        shown: bool | None = super().update(n)
        return shown


class _PlainLines(_Bar):
    """tqdm's counts and rates, printed as separate lines instead of a bar that is redrawn."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n:
            print(msg or str(self), file=sys.stderr, flush=True)


def _until_stopped(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        check_stop()
        yield item


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str,
    total: int | None = None,
    initial: int = 0,
    unit: str = "slice",
    shown: bool = True,
) -> Any:
    """Wrap `iterable` (or count by hand with `.update(n)`) and show its progress on stderr.

    Returns a tqdm object: iterate over it, or use it as a context manager. initial: the number of items that an earlier
    run has finished. Nothing is shown unless `shown`. Raises Stopped between two items if the run is asked to stop.
    """
    if iterable is not None:
        total = total if total is not None else getattr(iterable, "__len__", lambda: None)()
        iterable = _until_stopped(iterable)
    redraws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if redraws or not shown:
        return _Bar(iterable, desc=desc, total=total, initial=initial, unit=unit, dynamic_ncols=True, disable=not shown)
    # a bar would clutter a log, which needs only count, rate and time left
    return _PlainLines(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        unit=unit,
        file=io.StringIO(),  # discards the line ends that tqdm writes for a bar
        mininterval=PLAIN_INTERVAL_S,
        bar_format="{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left, {rate_fmt}",
    )
