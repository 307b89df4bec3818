"""Parquet tables, and CSV files from users, with a check for required columns."""

import mmap
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from pandas.errors import ParserWarning

from src.errors import UserError, first_few, shortened
from src.files.atomic import replacing


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet, atomically."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def read_table(path: Path, columns: Iterable[str], *, step: str) -> pd.DataFrame:
    """Read a parquet table and check that it has `columns`. step: the pipeline step that makes it.

    Raises UserError where the file is missing, is not a parquet file or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing", step=step)
    try:
        table = pd.read_parquet(path, page_checksum_verification=True)
    except Exception as error:  # damaged bytes can make Arrow and pandas raise anything
        raise UserError(f"{path} is not a readable parquet table ({error})", step=step) from error
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
