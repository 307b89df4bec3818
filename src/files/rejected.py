"""rejected.csv beside an image store: the slices that are not in it, and why.

People open it in other programs, so its text is plain. Its SHA-256 is in the metadata of the store's index, which is
written in the same step and carries a checksum of its own.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.files.checksum import file_sha256
from src.files.columns import COLUMNS, find_fault
from src.files.tables import read_arrow, read_csv, table_metadata

_SHA256 = "rejected_sha256"  # the key in the index's metadata


class Rejected(NamedTuple):
    """A slice that is not in the store, and the reason."""

    ID: str
    path: str
    reason: str
    message: str


def rejected_file(store: Path) -> Path:
    """The file of an image store's folder."""
    return store / "rejected.csv"


def write_rejected(store: Path, rejected: pd.DataFrame) -> dict[str, str]:
    """Write the file, atomically, and return what the index's metadata is to hold about it."""
    path = rejected_file(store)
    with replacing(path) as temporary:
        rejected.to_csv(temporary, index=False)
    return {_SHA256: file_sha256(path)}


def read_rejected(store: Path, reasons: Collection[str] | None = None) -> pd.DataFrame:
    """Read the file: columns as the fields of Rejected, all of them text.

    reasons: those that there are, for a reader that looks at them. Raises UserError where it is missing, holds
    something else, or is not as it was written with the index beside it.
    """
    path, columns = rejected_file(store), list(Rejected._fields)
    try:
        table = read_csv(path, columns, dtype=dict.fromkeys(columns, "str"))
    except UserError as error:
        raise UserError(str(error), step="preprocess") from error
    if list(table.columns) != columns:
        raise UserError(
            f"{path} has the columns {first_few(table.columns, 8)}; expected {', '.join(columns)}", step="preprocess"
        )
    table = table.fillna({"path": "", "message": ""})
    fault = find_fault(pa.Table.from_pandas(table, preserve_index=False), {name: COLUMNS[name] for name in columns})
    if fault is None and reasons is not None and not (known := table["reason"].isin(reasons)).all():
        unknown = table.loc[~known, "reason"].unique()
        fault = f"column reason: {first_few(unknown)}; expected one of {', '.join(reasons)}"
    if fault is not None:
        raise UserError(f"{path}, {fault}", step="preprocess")
    sealed = table_metadata(read_arrow(store / "index.parquet", step="preprocess")).get(_SHA256)
    if sealed is not None and file_sha256(path) != sealed:  # an index of an earlier version has none
        raise UserError(f"{path} is not as it was written: its bytes do not have their checksum", step="preprocess")
    return table
