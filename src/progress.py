"""Progress of a long step: a bar in a terminal, a plain line now and then where there is none (a log, CI)."""

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PLAIN_INTERVAL_S = 15.0


class _PlainLines(tqdm):
    """tqdm's counting and rates, printed as whole lines instead of a line that is drawn over."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.n:
            print(msg or str(self), file=sys.stderr, flush=True)


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str,
    total: int | None = None,
    initial: int = 0,
    unit: str = "slice",
    shown: bool = True,
) -> Any:
    """Wrap `iterable` (or count by hand with `.update(n)`) and show how far it is on stderr.

    Returns a tqdm object: iterate over it, or use it as a context manager. initial: what an earlier run has done.
    Nothing appears unless `shown`.
    """
    if sys.stderr.isatty() or not shown:
        return tqdm(iterable, desc=desc, total=total, initial=initial, unit=unit, dynamic_ncols=True, disable=not shown)
    # without a terminal a bar is noise: count, rate and time left are what a log needs
    return _PlainLines(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        unit=unit,
        file=io.StringIO(),  # takes the line ends that belong to a bar
        mininterval=PLAIN_INTERVAL_S,
        bar_format="{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left, {rate_fmt}",
    )
