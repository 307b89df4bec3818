"""How long the stages of the pipeline took: a small file for each, which only people and the report read."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from src.documents import parse_json, read_text
from src.errors import UserError
from src.files.atomic import replacing
from src.files.layout import Layout

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """stage: of the pipeline, such as "predict"; what: of which slices by what; slices: their number; seconds."""

    stage: str
    what: str
    slices: int
    seconds: float


def timings_beside(output: Path) -> Path:
    """The folder of these files for a table or an image store, which lies in cache/."""
    return output.resolve().parent / "timing"


def record_timing(folder: Path, timing: Timing) -> None:
    """Write how long a stage took, atomically, unless it is there of as many slices: the first time counts.

    Later ones find files in memory that were read before. A file that cannot be written is a warning: the work that was
    timed is done.
    """
    name = re.sub(r"[^\w.+-]+", "_", f"{timing.stage} {timing.what}")[:150]
    path = folder / f"{name}.json"
    try:
        if path.is_file() and (there := _parse(path)) is not None and there.slices == timing.slices:
            return
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(timing)) + "\n", encoding="utf-8")
    except OSError as error:
        _log.warning("the time of %s, %s is not recorded: %s", timing.stage, timing.what, error)


def recorder(folder: Path, stage: str) -> Callable[[str, int, float], None]:
    """`record_timing` for what a stage does: takes what, how many slices and how many seconds."""
    return lambda what, slices, seconds: record_timing(folder, Timing(stage, what, slices, seconds))


@contextmanager
def timed(folder: Path, stage: str, what: str, slices: int) -> Iterator[None]:
    """Record how long the block takes, unless it raises, or there are no slices."""
    started = time.perf_counter()
    yield
    if slices:
        record_timing(folder, Timing(stage, what, slices, time.perf_counter() - started))


def read_timings(layout: Layout) -> list[Timing]:
    """All that is recorded under a root, in the order of the pipeline's stages. Raises UserError for a damaged file."""
    found = []
    for path in sorted(layout.timings.glob("[!.]*.json")):
        timing = _parse(path)
        if timing is None:
            raise UserError(f"{path} is no record of a time; delete it, which only says how long a stage took")
        found.append(timing)
    order = ("headers", "store", "train", "predict", "embed", "sequence", "ensemble")
    return sorted(found, key=lambda each: (order.index(each.stage) if each.stage in order else len(order), each.what))


def _parse(path: Path) -> Timing | None:
    """What a file says; None where it is damaged."""
    try:
        said = parse_json(read_text(path))
        timing = Timing(str(said["stage"]), str(said["what"]), int(said["slices"]), float(said["seconds"]))
    except (UserError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return timing if timing.slices >= 0 and 0 <= timing.seconds < float("inf") else None
