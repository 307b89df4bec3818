"""The label CSV and the DICOM headers, never the pixels, as one table: a row per slice."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.ct.geometry import positions_along_normal
from src.errors import UserError, first_few, run_command
from src.files.dicom import Header, UnreadableDicom, read_header
from src.files.sources import Source, find_slices, require_folder, source_columns
from src.files.tables import read_csv, write_table
from src.labels import LABELS, split_row_ids
from src.preprocess.engine import add_engine_arguments, engine_arguments, run_tasks

HEADERS_PER_TASK = 256

_POSITION = ["position_x", "position_y", "position_z"]
_ORIENTATION = [f"{line}_cosine_{axis}" for line in ("row", "column") for axis in "xyz"]


def pivot_labels(csv: Path, *, test: bool) -> tuple[pd.DataFrame, int]:
    """Read `ID,Label` rows, six a slice, into one row per slice: (`ID` and the six labels as uint8, repeated rows).

    Slices keep the order in which they first come. With `test` the CSV is a sample submission: its labels are ignored,
    and the result has `ID` alone.

    Raises UserError for malformed ids, labels that are not 0 or 1, rows that repeat with another label, and slices
    that lack a label.
    """
    rows = read_csv(csv, ("ID", "Label"), dtype={"ID": "str", "Label": "str"})
    slice_ids, codes = _in_file(csv, rows["ID"])
    # few different values: each is looked at once
    kinds, values = (np.zeros(len(rows), dtype=np.intp), ["0"]) if test else pd.factorize(rows["Label"])
    numbers = np.append(pd.to_numeric(pd.Series(values, dtype="str"), errors="coerce"), np.nan)  # kind -1: no value
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


def read_headers(ids: list[str], sources: list[Source]) -> pd.DataFrame:
    """Read the headers of some slices: a row per ID, `reason` and `message` empty where the header is usable."""
    require_folder(sources)
    return pd.DataFrame(list(_header_rows(ids, sources))).assign(**source_columns(sources))


def place_slices(table: pd.DataFrame) -> pd.DataFrame:
    """Add where each slice lies in its series: `z` in mm along its normal, `z_index` from 0, `n_slices`.

    `z` is NaN where the header does not say; such slices come last in their series. Slices without a series (their
    header was unreadable) have `z_index` -1 and `n_slices` 0.
    """
    z = positions_along_normal(table[_POSITION].to_numpy(dtype=float), table[_ORIENTATION].to_numpy(dtype=float))
    usable = (table["reason"] == "").to_numpy()
    in_series = table.assign(z=z)[usable].sort_values(["SeriesInstanceUID", "z", "ID"]).groupby("SeriesInstanceUID")
    return table.assign(
        z=np.where(usable, z, np.nan),
        z_index=in_series.cumcount().reindex(table.index, fill_value=-1).astype(np.int32),
        n_slices=in_series["ID"].transform("size").reindex(table.index, fill_value=0).astype(np.int32),
    )


def dicom_to_dataframe(csv: Path, images: Path, *, test: bool = False, **engine: Any) -> tuple[pd.DataFrame, int]:
    """Join the CSV's slices with their headers: (a row per slice of the CSV, number of repeated CSV rows).

    images: a folder of DICOM files, or a zip archive that holds them at any depth. Slices whose file is missing or
    unreadable stay in the table, with a `reason`. engine: see `run_tasks`.
    """
    table, repeated = pivot_labels(csv, test=test)
    ids = table["ID"].tolist()
    if not ids:
        raise UserError(f"{csv} has no rows")
    sources = find_slices(images, ids)
    starts = range(0, len(ids), HEADERS_PER_TASK)
    tasks = ((ids[i : i + HEADERS_PER_TASK], sources[i : i + HEADERS_PER_TASK]) for i in starts)
    headers = list(
        run_tasks(read_headers, tasks, desc="reading headers", total=len(ids), size=len, shared=[images], **engine)
    )
    joined = table.merge(pd.concat(headers, ignore_index=True), on="ID", validate="one_to_one")
    if (joined["reason"] == "missing_file").all():
        raise UserError(f"{images} holds none of the {len(ids)} slices that {csv} names, {ids[0]}.dcm for one")
    return place_slices(joined), repeated


def _in_file(csv: Path, ids: pd.Series) -> tuple[pd.Series, pd.Series]:
    try:
        return split_row_ids(ids)
    except UserError as error:
        raise UserError(f"{csv}: {error}") from error


def _header_rows(ids: list[str], sources: list[Source]) -> Iterator[dict[str, object]]:
    for slice_id, source in zip(ids, sources, strict=True):
        try:
            tags = _tag_columns(read_header(source))
            tags["SeriesInstanceUID"] = tags["SeriesInstanceUID"] or slice_id  # of no series: one by itself
            reason = message = ""
        except UnreadableDicom as error:
            tags, reason, message = _NO_TAGS, error.reason, str(error)
        yield {"ID": slice_id, **tags, "reason": reason, "message": message}


def _tag_columns(header: Header) -> dict[str, object]:
    tags = asdict(header)
    position, orientation = tags.pop("position"), tags.pop("orientation")
    return {
        **tags,
        **dict(zip(_POSITION, position, strict=True)),
        **dict(zip(_ORIENTATION, orientation, strict=True)),
    }


def _empty_value(kind: object) -> object:
    return {str: "", int: 0}.get(kind, float("nan"))  # type: ignore[call-overload]


_NO_TAGS: dict[str, object] = {
    **{
        field.name: _empty_value(field.type)
        for field in fields(Header)
        if field.name not in ("position", "orientation")
    },
    **{name: float("nan") for name in (*_POSITION, *_ORIENTATION)},
}


def main() -> None:
    """Read arguments, make the table, report."""
    parser = Parser(
        prog="python -m src.preprocess.dicom_to_dataframe",
        description=__doc__,
        epilog="example: python -m src.preprocess.dicom_to_dataframe --csv input/stage_2_train.csv "
        "--images input/stage_2_train --output cache/train.parquet",
    )
    parser.add_argument("--csv", type=Path, required=True, help="Kaggle's labels, or its sample submission with --test")
    parser.add_argument("--images", type=Path, required=True, help="folder of ID_....dcm files, or a zip with them")
    parser.add_argument("--output", type=Path, required=True, help="the table to write, parquet")
    parser.add_argument("--test", action="store_true", help="the CSV is a sample submission: ignore its Label")
    add_engine_arguments(parser)
    args = parser.parse_args()
    table, repeated = dicom_to_dataframe(args.csv, args.images, test=args.test, **engine_arguments(args))
    write_table(table, args.output)
    usable = table["reason"] == ""
    print(
        f"{args.output}: {len(table)} slices, {table.loc[usable, 'SeriesInstanceUID'].nunique()} series, "
        f"{repeated} repeated CSV rows removed, {int((~usable).sum())} unusable headers"
    )


if __name__ == "__main__":
    run_command(main)
