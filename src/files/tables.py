"""Parquet tables, and CSV files from users, whose size, columns and values are checked before they are used."""

import csv
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.errors import ParserWarning

from src.errors import UserError, first_few, shortened
from src.files.checksum import UNSEALED, read_sealed, write_sealed
from src.files.columns import COLUMNS, Column, find_fault

_CHECKSUM = b"checksum"  # the key in the metadata of a parquet file

# Limits that keep memory bounded. The competition's largest CSV has 4.5 million rows and 120 MB.
MOST_CSV_BYTES = 1 << 29
MOST_ROWS = 1 << 24
MOST_COLUMNS = 1000
LONGEST_LINE = 1 << 17  # bytes of a CSV file without a line's end
_MOST_TABLE_BYTES = 1 << 33


def write_table(table: pd.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a table as parquet, atomically. metadata: further entries of the file's."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    write_arrow(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **(metadata or {})}), path)


def write_arrow(table: pa.Table, path: Path) -> None:
    """Write an Arrow table as a sealed parquet file, atomically."""
    buffer = pa.BufferOutputStream()
    metadata = {**(table.schema.metadata or {}), _CHECKSUM: UNSEALED.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    write_sealed(path, buffer.getvalue().to_pybytes())


def read_arrow(path: Path, *, step: str, foreign: bool = False) -> pa.Table:
    """Read a parquet file whole. foreign: whether it may lack a checksum, as one from elsewhere does.

    Raises UserError where it is missing, damaged, too large or no parquet file.
    """
    data = read_sealed(path, step=step, foreign=foreign)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if (large := _too_large(file.metadata)) is None:
            # without threads: the bytes are in memory, and Arrow's pools have been seen to abort a process at its exit
            table = file.read(use_threads=False)
            table.validate(full=True)  # among others, that text is UTF-8
    except Exception as error:  # damaged bytes can make Arrow raise anything
        raise UserError(f"{path} is not a readable parquet table ({shortened(error)})", step=step) from error
    if large is not None:
        raise UserError(f"{path} has {large}", step=step)
    return table


def table_metadata(table: pa.Table) -> dict[str, str]:
    """The text metadata of a parquet file."""
    metadata = table.schema.metadata or {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}


def read_table(
    path: Path, columns: Iterable[str] | Mapping[str, Column], *, step: str, foreign: bool = False
) -> pd.DataFrame:
    """Read a parquet table and check that it has `columns`, which hold what they may. step: that makes the table.

    columns: names of COLUMNS, or what columns hold here, by name. foreign: as for `read_arrow`. Raises UserError like
    it, and where the file lacks a column, or one holds something else.
    """
    return checked_frame(read_arrow(path, step=step, foreign=foreign), path, columns, step=step)


def checked_frame(
    table: pa.Table, path: Path, columns: Iterable[str] | Mapping[str, Column], *, step: str
) -> pd.DataFrame:
    """The table that was read from a file, as `read_table` returns it."""
    expected = columns if isinstance(columns, Mapping) else {name: COLUMNS[name] for name in columns}
    names = table.column_names
    missing = [name for name in expected if name not in names]
    if missing:
        raise UserError(f"{path} lacks the columns {first_few(missing)}; it has {first_few(names, 8)}", step=step)
    twice = sorted({name for name in names if names.count(name) > 1}) if len({*names}) < len(names) else []
    if twice:
        raise UserError(f"{path} has columns twice: {first_few(twice)}", step=step)
    fault = find_fault(table, expected)
    if fault is not None:
        raise UserError(f"{path}, {fault}", step=step)
    try:
        return table.to_pandas(ignore_metadata=True)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable parquet table ({shortened(error)})", step=step) from error


def _too_large(metadata: pq.FileMetaData) -> str | None:
    """What a file has too much of, by its own account; None where it can be read."""
    if metadata.num_rows > MOST_ROWS:
        return f"{metadata.num_rows} rows; expected {MOST_ROWS} at most"
    if metadata.num_columns > MOST_COLUMNS:
        return f"{metadata.num_columns} columns; expected {MOST_COLUMNS} at most"
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return f"{size} bytes of values; expected {_MOST_TABLE_BYTES} at most" if size > _MOST_TABLE_BYTES else None


def read_csv(path: Path, columns: Iterable[str], *, dtype: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a CSV file and check that it has `columns`. Raises UserError like `read_table`."""
    if not path.is_file():
        raise UserError(f"{path} is missing; expected a CSV file with the columns {', '.join(columns)}")
    _check_bounds(path)
    _check_header(path, list(columns))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # that a row with more fields than the header is cut
            # index_col: otherwise such a row shifts all columns; low_memory guesses a column's type from a part of it
            return pd.read_csv(path, dtype=dtype, index_col=False, low_memory=False)
    except ParserWarning:
        raise UserError(
            f"{path}: row 2 has more fields than the header; expected as many (are its decimal points commas?)"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is not a readable CSV file: {shortened(error)}") from error


def _check_bounds(path: Path) -> None:
    """Raise UserError for a text file that is too large to be read, or holds zeros.

    Zeros are in a file whose writing was cut off by a crash. The file is read once, a piece at a time.
    """
    size = path.stat().st_size
    if size > MOST_CSV_BYTES:
        raise UserError(f"{path} has {size} bytes; expected a CSV file of {MOST_CSV_BYTES} at most")
    rows, at = 0, 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(LONGEST_LINE):
            if (zero := piece.find(b"\0")) >= 0:
                raise UserError(f"{path} is damaged: a zero byte at {at + zero}; copy or download it again")
            ends = piece.count(b"\n")
            if not ends and len(piece) == LONGEST_LINE:
                raise UserError(
                    f"{path} has a line of more than {LONGEST_LINE} bytes, at byte {at}; expected a CSV file"
                )
            rows += ends
            at += len(piece)
    if rows > MOST_ROWS:
        raise UserError(f"{path} has {rows} rows; expected {MOST_ROWS} at most")


def _check_header(path: Path, columns: list[str]) -> None:
    """Raise UserError where a CSV file's first line lacks a column, or has one twice or too many."""
    with path.open("rb") as file:
        line = file.readline(2 * LONGEST_LINE)
    try:
        names = next(csv.reader([line.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable CSV file: {shortened(error)}") from error
    if not any(names):
        raise UserError(f"{path} is not a readable CSV file: it has no header; expected {', '.join(columns)}")
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{path} lacks the columns {first_few(missing)}; it has {first_few(names, 8)}")
    if len(names) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(names)} columns; expected {MOST_COLUMNS} at most")
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the columns {first_few(twice)} more than once")
