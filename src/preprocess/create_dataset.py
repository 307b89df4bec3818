"""From DICOM pixels to the image store: HU with the wrong-intercept repair, pixel hash, share of brain, rejects.

The task is a series, and its file is written whole or not at all: a run that was stopped goes on with the series that
are missing.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.ct.brain import brain_share
from src.ct.hounsfield import to_stored_range
from src.errors import UserError, run_command
from src.files.atomic import replacing
from src.files.dicom import UnreadableDicom, hounsfield_of, read_stored
from src.files.images import INDEX_COLUMNS, StoredSlice, pixel_hash, read_series_rows, series_file, write_series
from src.files.tables import read_table, write_table
from src.preprocess.engine import add_engine_arguments, run_tasks

TABLE_COLUMNS = ("ID", "SeriesInstanceUID", "z_index", "rows", "columns", "path", "reason", "message")
REJECTED_COLUMNS = ("ID", "path", "reason", "message")

MAX_REJECTED_SHARE = 0.01
MAX_REJECTED_COUNT = 10  # fewer rejects than this never stop a run, whatever share they are


def create_dataset(
    table: pd.DataFrame, folder: Path, *, engine: str = "loky", jobs: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill an image store with the slices of a table: (index, rejected), which are written into `folder` too.

    index: a row per stored slice; rejected: a row per slice that is not stored, whether its header or its pixels were
    at fault. Together they have every ID of the table once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = table[table["reason"] == ""].sort_values(["SeriesInstanceUID", "z_index"])
    tasks = [
        (folder / series_file(uid, rows, columns), series[list(TABLE_COLUMNS)])
        for (uid, rows, columns), series in usable.groupby(["SeriesInstanceUID", "rows", "columns"], sort=False)
    ]
    parts = run_tasks(
        store_series,
        tasks,
        engine=engine,
        jobs=jobs,
        desc="storing slices",
        unit="slice",
        size=lambda task: len(task[1]),
    )
    index = pd.concat([pd.DataFrame(columns=list(INDEX_COLUMNS)), *(stored for stored, _ in parts)], ignore_index=True)
    index = index.astype({"position": "int32", "rows": "int32", "columns": "int32", "brain_share": "float64"})
    unusable = table.loc[table["reason"] != "", list(REJECTED_COLUMNS)]
    rejected = pd.concat([unusable, *(rejects for _, rejects in parts)], ignore_index=True)
    with replacing(folder / "rejected.csv") as temporary:
        rejected.to_csv(temporary, index=False)
    write_table(index, folder / "index.parquet")
    return index, rejected


def store_series(path: Path, series: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a series' slices in z order and write its file: (rows of the index, rows of the rejected).

    Where the file is there already, made from the same slices, only what it lacks is looked at again; where some of
    that can be read now (a decoder was installed, a disk mended), the file is written anew.
    """
    source = _fingerprint(series)
    kept = read_series_rows(path, source)
    if kept is not None:
        _, found, still_rejected = _read_slices(series[~series["ID"].isin(kept["ID"])])
        if not found:
            return kept, still_rejected
    pixels, slices, rejected = _read_slices(series)
    if not slices:
        return pd.DataFrame(columns=list(INDEX_COLUMNS)), rejected
    write_series(path, np.stack(pixels), slices, source)
    rows = read_series_rows(path, source)
    if rows is None:
        raise OSError(f"{path} cannot be read back after writing")
    return rows, rejected


def check_rejected(rejected: pd.DataFrame, total: int, max_share: float) -> None:
    """Raise UserError where more slices were rejected than a sound download has."""
    if len(rejected) >= MAX_REJECTED_COUNT and len(rejected) > max_share * total:
        raise UserError(
            f"{len(rejected)} of {total} slices were rejected ({_counts(rejected)}), more than {max_share:.1%}; "
            "see rejected.csv, mend the download, or allow more with --max-rejected"
        )


def _read_slices(series: pd.DataFrame) -> tuple[list[np.ndarray], list[StoredSlice], pd.DataFrame]:
    pixels, slices, rejects = [], [], []
    for row in series.itertuples():
        try:
            stored, header = read_stored(Path(row.path))
            if stored.shape != (row.rows, row.columns):
                raise UnreadableDicom("bad_value", "the file has changed since the table was made")
            hu = hounsfield_of(stored, header)
        except UnreadableDicom as error:
            rejects.append((row.ID, row.path, error.reason, str(error)))
            continue
        pixels.append(to_stored_range(hu))
        slices.append(StoredSlice(row.ID, pixel_hash(stored), brain_share(hu)))
    return pixels, slices, pd.DataFrame(rejects, columns=list(REJECTED_COLUMNS))


def _fingerprint(series: pd.DataFrame) -> str:
    """Changes with what a series' file is made from: its slices, their order, and the files' sizes and times."""
    digest = hashlib.blake2b(digest_size=16)
    for slice_id, path in zip(series["ID"], series["path"], strict=True):
        try:
            stat = Path(path).stat()
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{slice_id} {state}\n".encode())
    return digest.hexdigest()


def _counts(rejected: pd.DataFrame) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(rejected["reason"]).items()))


def main() -> None:
    """Read arguments, fill the store, report."""
    parser = Parser(
        prog="python -m src.preprocess.create_dataset",
        description=__doc__,
        epilog="example: python -m src.preprocess.create_dataset --table cache/train.parquet --output cache/train",
    )
    parser.add_argument("--table", type=Path, required=True, help="the table that dicom_to_dataframe made")
    parser.add_argument("--output", type=Path, required=True, help="the image store's folder")
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=MAX_REJECTED_SHARE,
        help=f"share of rejected slices that fails the run, from {MAX_REJECTED_COUNT} on (default %(default)s)",
    )
    add_engine_arguments(parser)
    args = parser.parse_args()
    table = read_table(args.table, TABLE_COLUMNS, made_by="src.preprocess.dicom_to_dataframe")
    index, rejected = create_dataset(table, args.output, engine=args.engine, jobs=args.jobs)
    why = f" ({_counts(rejected)})" if len(rejected) else ""
    print(f"{args.output}: {len(index)} slices stored, {len(rejected)} rejected{why}")
    check_rejected(rejected, len(table), args.max_rejected)


if __name__ == "__main__":
    run_command(main)
