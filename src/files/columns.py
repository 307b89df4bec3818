"""What the columns of the pipeline's tables may hold. A name means the same in every table; every reader checks it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from src.errors import first_few, shortened
from src.labels import LABELS, SLICE_ID

LONGEST_TEXT = 1 << 14  # bytes; a path takes 4096 at most, and one within an archive as much again
_WORDS = {"text": "text", "whole": "whole numbers", "number": "numbers"}


@dataclass(frozen=True)
class Column:
    """What a column may hold.

    low, high: the least and the greatest number; gaps: whether values may be empty; once: whether no value may come
    twice; pattern: a regular expression that all of a text matches.
    """

    kind: Literal["text", "whole", "number"]
    low: float = float("-inf")
    high: float = float("inf")
    gaps: bool = False
    once: bool = False
    pattern: str = ""


_TEXT = Column("text")
_MEASURE = Column("number", gaps=True)  # of a header, which may lack it
_COUNT = Column("whole", low=0, high=1 << 62)
_SIDE = Column("whole", low=0, high=(1 << 16) - 1)  # rows and columns are 16 bits in DICOM; 0 where they are unknown

COLUMNS: Mapping[str, Column] = {
    "ID": Column("text", once=True, pattern=SLICE_ID),
    **dict.fromkeys(LABELS, Column("whole", low=0, high=1)),
    **dict.fromkeys(("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "path", "archive", "message"), _TEXT),
    "reason": Column("text", pattern="[a-z_]*"),
    **dict.fromkeys(("rows", "columns"), _SIDE),
    **dict.fromkeys(("z", "position_x", "row_cosine_x", "row_spacing"), _MEASURE),
    "z_index": Column("whole", low=-1, high=(1 << 31) - 1),
    **dict.fromkeys(("member_offset", "member_packed_size", "member_size", "member_crc32", "member_method"), _COUNT),
    "fold": Column("whole", low=0, high=127),
    # of the image store's index
    "file": Column("text", pattern=r"[^/\\\x00]+"),
    "position": Column("whole", low=0, high=(1 << 31) - 1),
    "pixel_hash": Column("text", pattern="[0-9a-z]+"),
    "brain_share": Column("number", low=0, high=1),
    "checksum": Column("whole", low=0, high=(1 << 64) - 1),
    "file_crc32": Column("whole", low=0, high=(1 << 32) - 1),
}
# of prediction files, whose own reader says which are empty or no probabilities
PROBABILITIES: Mapping[str, Column] = {"ID": COLUMNS["ID"], **dict.fromkeys(LABELS, Column("number", gaps=True))}


def find_fault(table: pa.Table, columns: Mapping[str, Column]) -> str | None:
    """What is wrong with the first column that holds something else than it may; None where all is right.

    columns: those that are checked; each must be there.
    """
    for name, expected in columns.items():
        fault = _fault(table[name], expected)
        if fault is not None:
            return f"column {name}: {fault}"
    return None


def _fault(values: pa.ChunkedArray, expected: Column) -> str | None:
    if not _is_of(values.type, expected.kind) and len(values):  # an empty column may be of any type
        return f"expected {_WORDS[expected.kind]}, found {shortened(values.type)}"
    if not len(values):
        return None
    if values.null_count and not expected.gaps:
        return f"empty values, {values.null_count} of {len(values)}; expected {_WORDS[expected.kind]} in each row"
    if expected.once and pc.count_distinct(values).as_py() < len(values):
        counted = pc.value_counts(values)
        twice = pc.filter(counted.field(0), pc.greater(counted.field(1), 1))
        return f"{len(twice)} values come more than once: {first_few(twice.to_pylist())}"
    return _text_fault(values, expected) if expected.kind == "text" else _number_fault(values, expected)


def _text_fault(values: pa.ChunkedArray, expected: Column) -> str | None:
    longest = pc.max(pc.binary_length(values)).as_py()
    if longest is not None and longest > LONGEST_TEXT:
        return f"a text of {longest} bytes; expected {LONGEST_TEXT} at most"
    if not expected.pattern:
        return None
    wrong = pc.invert(pc.match_substring_regex(values, f"^(?:{expected.pattern})\\z"))
    return _named(values, wrong, f"expected {expected.pattern}")


def _number_fault(values: pa.ChunkedArray, expected: Column) -> str | None:
    if expected.low == float("-inf") and expected.high == float("inf"):
        return None
    found = pc.min_max(values)
    low, high = found["min"].as_py(), found["max"].as_py()
    nan = pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py()
    if not nan and expected.low <= low and high <= expected.high:
        return None
    # in Python, where whole numbers of any size are compared exactly
    within = pa.array([each is not None and expected.low <= each <= expected.high for each in values.to_pylist()])
    return _named(values, pc.invert(within), f"expected {expected.low:.17g} to {expected.high:.17g}")


def _named(values: pa.ChunkedArray, wrong: pa.Array, what: str) -> str | None:
    found = pc.filter(values, wrong, null_selection_behavior="drop")
    return f"{len(found)} values, {first_few(map(repr, found.to_pylist()))}; {what}" if len(found) else None


def _is_of(kind: pa.DataType, expected: str) -> bool:
    types = pa.types
    if expected == "text":
        return bool(types.is_string(kind) or types.is_large_string(kind))
    return bool(types.is_integer(kind) or (expected == "number" and types.is_floating(kind)))
