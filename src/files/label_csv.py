"""Kaggle's CSV files of labels: six `ID,Label` rows per slice, pivoted into one row per slice."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.tables import read_csv
from src.labels import LABELS, split_row_ids


def pivot_labels(csv: Path, *, test: bool) -> tuple[pd.DataFrame, int]:
    """Read `ID,Label` rows, six per slice, into one row per slice.

    Returns a table with `ID` and the six labels as uint8, and the number of repeated rows. Slices keep the order of
    their first rows. With `test` the CSV is a sample submission: its labels are ignored, and the table has only `ID`.

    Raises UserError for malformed ids, labels that are not 0 or 1, repeated rows with conflicting labels, and slices
    that lack a label.
    """
    rows = read_csv(csv, ("ID", "Label"), dtype={"ID": "str", "Label": "str"})
    slice_ids, codes = _in_file(csv, rows["ID"])
    # there are few distinct values, so each is parsed only once
    kinds, values = (np.zeros(len(rows), dtype=np.intp), ["0"]) if test else pd.factorize(rows["Label"])
    numbers = np.append(pd.to_numeric(pd.Series(values, dtype="str"), errors="coerce"), np.nan)  # kind -1: missing
    labels = numbers[kinds]
    if not np.isin(numbers, (0, 1))[np.unique(kinds)].all():
        at = np.flatnonzero(~np.isin(labels, (0, 1)))
        named = first_few(f"{rows['ID'].iloc[i]} has {rows['Label'].iloc[i]}" for i in at)
        raise UserError(f"{csv}: {len(at)} labels are not 0 or 1: {named}")

    slice_codes, ids = pd.factorize(slice_ids)
    cells = slice_codes * len(LABELS) + codes.to_numpy()  # the cell of the (slices, labels) grid that a row fills
    count = np.bincount(cells, minlength=len(ids) * len(LABELS))
    positive = np.bincount(cells, weights=labels, minlength=len(ids) * len(LABELS))
    conflicting = (positive != 0) & (positive != count)
    if conflicting.any():
        cell = np.flatnonzero(conflicting)
        named = first_few(f"{ids[c // len(LABELS)]}_{LABELS[c % len(LABELS)]}" for c in cell)
        raise UserError(f"{csv}: {len(cell)} rows come more than once with conflicting labels: {named}")
    if (count == 0).any():
        cell = np.flatnonzero(count == 0)
        named = first_few(f"{ids[c // len(LABELS)]}_{LABELS[c % len(LABELS)]}" for c in cell)
        raise UserError(f"{csv}: {len(cell)} rows are missing, each slice needs {len(LABELS)}: {named}")
    table = pd.DataFrame({"ID": ids})
    if not test:
        grid = (positive > 0).astype(np.uint8).reshape(len(ids), len(LABELS))
        table[list(LABELS)] = grid
    return table, int((count - 1).sum())


def _in_file(csv: Path, ids: pd.Series) -> tuple[pd.Series, pd.Series]:
    try:
        return split_row_ids(ids)
    except UserError as error:
        raise UserError(f"{csv}: {error}") from error
