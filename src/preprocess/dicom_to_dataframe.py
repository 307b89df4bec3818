"""Join the label CSV and the DICOM headers into one table, a row per slice; pixels are not read."""

import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.ct.geometry import parallel_groups, positions_along_normal
from src.dicom import Header, UnreadableDicom, read_header
from src.dicom.sources import Source, find_slices, require_folder, source_columns
from src.errors import UserError, run_command
from src.files.label_csv import pivot_labels
from src.files.tables import write_table
from src.files.timing import Timing, record_timing, timings_beside
from src.preprocess.engine import add_engine_arguments, engine_arguments, run_tasks

HEADERS_PER_TASK = 256
SET_APART = "~"  # between a SeriesInstanceUID and the number of a group of slices that are not parallel to the others

_POSITION = ["position_x", "position_y", "position_z"]
_ORIENTATION = [f"{line}_cosine_{axis}" for line in ("row", "column") for axis in "xyz"]


def read_headers(ids: list[str], sources: list[Source]) -> pd.DataFrame:
    """Read the headers of some slices: a row per ID; `reason` and `message` are empty if the header is usable."""
    require_folder(sources)
    return pd.DataFrame(list(_header_rows(ids, sources))).assign(**source_columns(sources))


def part_series(table: pd.DataFrame) -> pd.DataFrame:
    """Give slices that are not parallel to most of their series a series of their own.

    A localizer often shares a SeriesInstanceUID with the slices that it plans, but is no neighbour of any. The largest
    group of parallel slices keeps the UID, the next is `<UID>~2`, and so on.
    """
    usable = table["reason"] == ""
    orientations = table[_ORIENTATION].to_numpy(dtype=float)
    uids = table["SeriesInstanceUID"].to_numpy(dtype=object).copy()
    for uid, rows in table.index[usable].groupby(table.loc[usable, "SeriesInstanceUID"]).items():
        at = table.index.get_indexer(rows)
        groups = parallel_groups(orientations[at])
        for number in range(1, groups.max() + 1):
            uids[at[groups == number]] = f"{uid}{SET_APART}{number + 1}"
    return table.assign(SeriesInstanceUID=uids)


def place_slices(table: pd.DataFrame) -> pd.DataFrame:
    """Add the position of each slice in its series: `z` in mm along its normal, `z_index` from 0, `n_slices`.

    `z` is NaN if the header does not give it; such slices come last in their series. Slices without a series, because
    their header was unreadable, have `z_index` -1 and `n_slices` 0.
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
    """Join the slices of the CSV with their headers: (a row per slice of the CSV, number of repeated CSV rows).

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
    return place_slices(part_series(joined)), repeated


def _header_rows(ids: list[str], sources: list[Source]) -> Iterator[dict[str, object]]:
    for slice_id, source in zip(ids, sources, strict=True):
        try:
            tags = _tag_columns(read_header(source))
            # a slice without a series is a series by itself
            tags["SeriesInstanceUID"] = tags["SeriesInstanceUID"] or slice_id
            reason = message = ""
        except UnreadableDicom as error:
            tags, reason, message = _NO_TAGS, error.reason, str(error)
        yield {"ID": slice_id, **tags, "reason": reason, "message": message}


def _tag_columns(header: Header) -> dict[str, object]:
    tags = asdict(header)
    del tags["SOPInstanceUID"]  # in the competition it is the ID of the slice
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
        if field.name not in ("position", "orientation", "SOPInstanceUID")
    },
    **{name: float("nan") for name in (*_POSITION, *_ORIENTATION)},
}


def main() -> None:
    """Read the arguments, make the table, and report."""
    parser = Parser(
        prog="python -m src.preprocess.dicom_to_dataframe",
        description=__doc__,
        epilog="example: python -m src.preprocess.dicom_to_dataframe --csv input/stage_2_train.csv "
        "--images input/stage_2_train --output cache/train.parquet",
    )
    parser.add_argument("--csv", type=Path, required=True, help="Kaggle's label CSV, or sample submission with --test")
    parser.add_argument("--images", type=Path, required=True, help="folder or zip of ID_....dcm files")
    parser.add_argument("--output", type=Path, required=True, help="parquet table to write")
    parser.add_argument("--test", action="store_true", help="the CSV is a sample submission; ignore its Label column")
    add_engine_arguments(parser)
    args = parser.parse_args()
    started = time.perf_counter()
    table, repeated = dicom_to_dataframe(args.csv, args.images, test=args.test, **engine_arguments(args))
    write_table(table, args.output)
    seconds = time.perf_counter() - started
    record_timing(timings_beside(args.output), Timing("headers", args.output.stem, len(table), seconds))
    usable = table["reason"] == ""
    print(
        f"{args.output}: {len(table)} slices, {table.loc[usable, 'SeriesInstanceUID'].nunique()} series, "
        f"{repeated} repeated CSV rows removed, {int((~usable).sum())} unusable headers"
    )


if __name__ == "__main__":
    run_command(main)
