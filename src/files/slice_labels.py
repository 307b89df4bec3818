"""Labels of slices from a CSV of one's own: an id, `SOPInstanceUID` or `file`, and the six labels as 0 and 1.

`file` is a file's name, or as much of the end of its path as tells it from others. A frame of an Enhanced CT is its
file's UID or name with `#` and the number of the frame, from 1.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.study_labels import distinct_ids, plain_values
from src.files.tables import read_csv
from src.labels import LABELS

ID_COLUMNS = ("SOPInstanceUID", "file")


@dataclass(frozen=True)
class SliceLabels:
    """Labels of N ids. kind: one of ID_COLUMNS. values: (N, 6) of 0, 1 and NaN for a label that is not known."""

    kind: str
    ids: Sequence[str]
    values: np.ndarray


def read_slice_labels(path: Path) -> SliceLabels:
    """Read the CSV. Raises UserError for another form, labels that are not 0 or 1, and those that contradict."""
    if not path.is_file():
        raise UserError(f"{path} is missing; expected a CSV file with {' or '.join(ID_COLUMNS)} and labels")
    table = read_csv(path, (), dtype=defaultdict(lambda: "str"))
    table.columns = [str(name).strip() for name in table.columns]
    kind = next((name for name in ID_COLUMNS if name in table.columns), "")
    if not kind or not any(label in table.columns for label in LABELS):
        raise UserError(
            f"{path}: expected a column {' or '.join(ID_COLUMNS)}, and {', '.join(LABELS)}; "
            f"it has {first_few(table.columns, 8)}"
        )
    ids = table[kind].fillna("").str.strip()
    if not len(ids) or (ids == "").any():
        raise UserError(f"{path} has {'a row without' if len(ids) else 'no rows, each with'} {kind}")
    values = plain_values(path, table, ids)
    distinct, first = distinct_ids(path, ids, values)
    values = values[first]
    wrong = np.flatnonzero((values[:, 0] == 0) & (values[:, 1:] == 1).any(axis=1))
    if len(wrong):
        raise UserError(f"{path}: any is 0 though a subtype is 1: {first_few(distinct[i] for i in wrong)}")
    return SliceLabels(kind, distinct, values)


def find_rows(labels: SliceLabels, uids: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    """The row of the labels for each of N slices, -1 for none: (N,) integers.

    uids, paths: of the slices, with `#` and the frame where there are several. Raises UserError where a file name could
    mean two files, or two rows one file.
    """
    if labels.kind == "SOPInstanceUID":
        return pd.Index(labels.ids).get_indexer(list(uids)).astype(np.int64)
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, each in enumerate(labels.ids):
        by_name[PurePosixPath(each).name].append(row)
    rows = np.full(len(paths), -1, dtype=np.int64)
    owner: dict[int, str] = {}
    for i, path in enumerate(paths):
        parts = PurePosixPath(path).parts
        found = [row for row in by_name[parts[-1]] if _ends(parts, PurePosixPath(labels.ids[row]).parts)]
        if len(found) > 1:
            raise UserError(f"{path} is meant by several rows: {first_few(labels.ids[row] for row in found)}")
        for row in found:
            if row in owner:
                raise UserError(
                    f"{labels.ids[row]} means several files, {owner[row]} and {path}; give more of their paths"
                )
            owner[row], rows[i] = path, row
    return rows


def _ends(parts: Sequence[str], end: Sequence[str]) -> bool:
    return tuple(parts[-len(end) :]) == tuple(end)
