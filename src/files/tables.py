"""Parquet tables, and CSV files from users, with a check for required columns."""

import mmap
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.errors import ParserWarning

from src.errors import UserError, first_few, shortened
from src.files.checksum import UNSEALED, read_sealed, write_sealed

_CHECKSUM = b"checksum"  # the key in the metadata of a parquet file


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    write_arrow(pa.Table.from_pandas(table, preserve_index=False), path)


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write an Arrow table as a sealed parquet file, atomically."""
    buffer = pa.BufferOutputStream()
    metadata = {**(table.schema.metadata or {}), _CHECKSUM: UNSEALED.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    write_sealed(path, buffer.getvalue().to_pybytes())


def read_arrow(path: Path, *, step: str, foreign: bool = False) -> pa.Table:
    """Read a parquet file whole. foreign: whether it may lack a checksum, as one from elsewhere does.

    Raises UserError where it is missing, damaged or no parquet file.
    """
    data = read_sealed(path, step=step, foreign=foreign)
    try:
        # without threads: the bytes are in memory, and Arrow's pools have been seen to abort a process at its exit
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except Exception as error:  # damaged bytes can make Arrow raise anything
        raise UserError(f"{path} is not a readable parquet table ({shortened(error)})", step=step) from error


def read_table(path: Path, columns: Iterable[str], *, step: str, foreign: bool = False) -> pd.DataFrame:
    """Read a parquet table and check that it has `columns`. step: the pipeline step that makes it.

    foreign: as for `read_arrow`. Raises UserError like it, and where the file lacks a column.
    """
    try:
        table = read_arrow(path, step=step, foreign=foreign).to_pandas()
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable parquet table ({shortened(error)})", step=step) from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the columns {first_few(missing)}; it has {', '.join(map(str, table.columns))}")
    return table


def read_csv(path: Path, columns: Iterable[str], *, dtype: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a CSV file and check that it has `columns`. Raises UserError like `read_table`."""
    if not path.is_file():
        raise UserError(f"{path} is missing; expected a CSV file with the columns {', '.join(columns)}")
    _refuse_zero_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # that a row with more fields than the header is cut
            table = pd.read_csv(path, dtype=dtype, index_col=False)  # otherwise such a row shifts all columns
    except ParserWarning:
        raise UserError(
            f"{path}: row 2 has more fields than the header; expected as many (are its decimal points commas?)"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is not a readable CSV file: {shortened(error)}") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the columns {first_few(missing)}; it has {first_few(map(str, table.columns), 8)}"
        )
    return table


def _refuse_zero_bytes(path: Path) -> None:
    """Raise UserError if a text file holds zeros, as one does whose writing was cut off by a crash."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
            at = contents.find(b"\0")
    if at >= 0:
        raise UserError(f"{path} is damaged: a zero byte at {at}; copy or download it again")
