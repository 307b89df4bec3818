"""Parquet tables, and CSV files from users, with a check for required columns."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from src.errors import UserError, first_few
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
    try:
        table = pd.read_csv(path, dtype=dtype, index_col=False)  # otherwise a row that is too long shifts all columns
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is not a readable CSV file: {error}") from error
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(
            f"{path} lacks the columns {first_few(missing)}; it has {first_few(map(str, table.columns), 8)}"
        )
    return table
