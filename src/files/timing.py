"""How long the stages of the pipeline took: a small file for each, which only people and the report read."""

import json
import logging
import re
import time
from collections.abc import Iterator
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


def record_timing(folder: Path, timing: Timing) -> None:
    """Write how long a stage took, atomically, in place of what it took before.

    A file that cannot be written is a warning: the work that was timed is done.
    """
    name = re.sub(r"[^\w.+-]+", "_", f"{timing.stage} {timing.what}")[:150]
    try:
        with replacing(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(asdict(timing)) + "\n", encoding="utf-8")
    except OSError as error:
        _log.warning("the time of %s, %s is not recorded: %s", timing.stage, timing.what, error)


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
        try:
            record = parse_json(read_text(path))
            found.append(
                Timing(str(record["stage"]), str(record["what"]), int(record["slices"]), float(record["seconds"]))
            )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{path} is no record of a time ({type(error).__name__}: {error}); delete it") from error
    order = ("headers", "store", "train", "predict", "embed", "sequence", "ensemble")
    return sorted(found, key=lambda each: (order.index(each.stage) if each.stage in order else len(order), each.what))
