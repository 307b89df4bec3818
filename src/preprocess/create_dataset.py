"""From DICOM pixels to the image store: HU with the wrong-intercept repair, pixel hash, share of brain, rejects.

The task is a series, and its file is written whole or not at all: a run that was stopped, in whatever way, goes on with
the series that are missing, damaged, or older than their slices. With --verify nothing is made, but everything read.
"""

import hashlib
import os
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from src.arguments import Parser, share
from src.ct.brain import brain_share
from src.errors import UserError, first_few, run_command
from src.files.archive import Member
from src.files.atomic import held_by_one_run, replacing, sweep_partials
from src.files.dicom import REASONS, UnreadableDicom, parse_stored, read_file, stored_hounsfield_of
from src.files.images import (
    BYTES_PER_PIXEL,
    INDEX_COLUMNS,
    PIXELS_PER_FILE,
    SliceToStore,
    StoredSlice,
    check_store,
    make_store,
    pixel_hash,
    read_series_rows,
    series_file,
    series_files,
    write_series,
)
from src.files.sources import SOURCE_COLUMNS, Source, places_of, require_folder, source_path, sources_of, state_of
from src.files.tables import read_csv, read_table, write_table
from src.preprocess.engine import add_engine_arguments, engine_arguments, run_tasks

TABLE_COLUMNS = ("ID", "SeriesInstanceUID", "z_index", "rows", "columns", *SOURCE_COLUMNS, "reason", "message")

MAX_REJECTED_SHARE = 0.01
MAX_REJECTED_COUNT = 10  # fewer rejects than this never stop a run, whatever share they are


class Rejected(NamedTuple):
    """A slice that is not in the store, and why."""

    ID: str
    path: str
    reason: str
    message: str


class Series(NamedTuple):
    """A task: slices of one size, in z order, that go into one file."""

    file: str
    rows: int
    columns: int
    slices: list[tuple[str, Source]]  # ID, where its bytes are


def create_dataset(table: pd.DataFrame, folder: Path, **engine: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill an image store with the slices of a table: (index, rejected), which are written into `folder` too.

    index: a row per stored slice; rejected: a row per slice that is not stored, whether its header or its pixels were
    at fault. Together they have every ID of the table once. engine: see `run_tasks`.

    Raises UserError where the store is of another format or input, or where the disk lacks the room that it will take.
    """
    folder = folder.resolve()  # workers may stand elsewhere
    usable = table[table["reason"] == ""]
    files = {series.file: len(series.slices) * series.rows * series.columns for series in _series_of(usable)}
    with held_by_one_run(folder):
        make_store(folder)
        sweep_partials(folder)
        there = series_files(folder)
        _clear_input(folder, there - files.keys(), table["ID"])
        _check_disk(folder, sum(pixels for file, pixels in files.items() if file not in there))
        index, rejected = [], [Rejected(*row) for row in _rows(table[table["reason"] != ""], Rejected._fields)]
        results = run_tasks(
            store_series,
            ((str(folder), *series) for series in _series_of(usable)),
            desc="storing slices",
            total=len(usable),
            size=lambda result: len(result[0]) + len(result[1]),
            shared=[folder, *places_of(usable)],
            **engine,
        )
        try:
            with closing(results):  # which ends the workers
                for stored, rejects in results:
                    index += stored
                    rejected += rejects
        finally:
            sweep_partials(folder)  # of workers that died, or were ended with the run
        if lost := {row.file for row in index} - series_files(folder):
            raise UserError(
                f"{folder} lacks {len(lost)} files that workers wrote, {first_few(sorted(lost))}: on another disk?"
            )
        rejected_table = pd.DataFrame(rejected, columns=list(Rejected._fields))
        with replacing(folder / "rejected.csv") as temporary:
            rejected_table.to_csv(temporary, index=False)
        index_table = _index_table(index)
        write_table(index_table, folder / "index.parquet")
    return index_table, rejected_table


def store_series(
    folder: str, file: str, rows: int, columns: int, slices: list[tuple[str, Source]]
) -> tuple[list[StoredSlice], list[Rejected]]:
    """Read a series' slices in z order and write its file: (rows of the index, rejected slices).

    Where the file is there already, whole, made from the same slices and not older than they, only what it lacks is
    looked at again; where some of that can be read now (a decoder was installed, a disk mended), it is written anew.
    """
    path = Path(folder, file)
    rejected: list[Rejected] = []
    require_folder([source for _, source in slices])
    source, newest = _fingerprint(slices)
    kept = read_series_rows(path, source)
    if kept is not None and path.stat().st_mtime_ns >= newest and _same_members(kept, slices):
        stored = {row.ID for row in kept}
        lacking = [each for each in slices if each[0] not in stored]
        if next(_read_slices(lacking, (rows, columns), rejected), None) is None:
            return kept, rejected
        rejected.clear()
    if path.exists() and all(state_of(source) == (-1, 0) for _, source in slices):
        raise UserError(
            f"all {len(slices)} slices of {path} are gone since the table was made, {source_path(slices[0][1])} for "
            "one; is their disk mounted? What was stored of them is left as it is"
        )
    readable = _read_slices(slices, (rows, columns), rejected)
    written = write_series(path, readable, most=len(slices), shape=(rows, columns), source=source)
    if not written:
        path.unlink(missing_ok=True)  # made when some of it could still be read
    elif path.stat().st_mtime_ns < newest:  # clocks differ, or a slice comes from the future
        os.utime(path, ns=(newest, newest))
    return written, rejected


def check_rejected(rejected: pd.DataFrame, total: int, max_share: float) -> None:
    """Raise UserError where more slices were rejected than a sound download has."""
    if len(rejected) >= MAX_REJECTED_COUNT and len(rejected) > max_share * total:
        raise UserError(
            f"{len(rejected)} of {total} slices were rejected ({count_reasons(rejected)}), more than {max_share:.1%}; "
            "see rejected.csv, mend the download, or allow more with --max-rejected (MAX_REJECTED of preprocess.sh)"
        )


def count_reasons(rejected: pd.DataFrame) -> str:
    """How many slices were rejected for which reason, as words."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(rejected["reason"]).items()))


def verify(folder: Path, **engine: Any) -> int:
    """Read every byte of a store and return the number of its series' files. engine: see `run_tasks`.

    Raises UserError that names the files that are damaged, missing, or not as the index says.
    """
    check_store(folder)
    index = read_table(folder / "index.parquet", INDEX_COLUMNS, made_by="src.preprocess.create_dataset")
    files = sorted({*index["file"], *series_files(folder)})
    found = run_tasks(
        read_series_rows,
        ((folder.resolve() / file,) for file in files),
        desc="verifying files",
        total=len(files),
        unit="file",
        **engine,
    )
    carried = dict(zip(files, found, strict=True))
    damaged = [str(folder / file) for file, rows in carried.items() if rows is None]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(files)} files of the store are damaged or missing: {first_few(damaged)}; "
            "run the same command without --verify, and they are made anew"
        )
    if not _index_table([row for file in files for row in carried[file]]).equals(
        index.sort_values(["file", "position"], ignore_index=True)
    ):
        raise UserError(
            f"{folder / 'index.parquet'} is not the index of the files beside it; run the same command without --verify"
        )
    rejected = read_csv(folder / "rejected.csv", Rejected._fields, dtype={"ID": "str"})
    if not set(rejected["reason"]) <= set(REASONS) or set(rejected["ID"]) & set(index["ID"]):
        raise UserError(f"{folder / 'rejected.csv'} is not what was written; run the same command without --verify")
    return len(files)


def _series_of(usable: pd.DataFrame) -> Iterator[Series]:
    """A table's slices as tasks, in a fixed order."""
    ordered = usable.sort_values(["SeriesInstanceUID", "rows", "columns", "z_index"], kind="stable")
    keys = list(zip(*(ordered[name].tolist() for name in ("SeriesInstanceUID", "rows", "columns")), strict=True))
    slices = list(zip(ordered["ID"].tolist(), sources_of(ordered), strict=True))
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[start]:
            uid, rows, columns = keys[start]
            most = max(1, PIXELS_PER_FILE // (rows * columns))
            for part, first in enumerate(range(start, end, most)):
                last = min(first + most, end)
                yield Series(series_file(uid, rows, columns, part), rows, columns, slices[first:last])
            start = end


def _read_slices(
    slices: list[tuple[str, Source]], shape: tuple[int, int], rejected: list[Rejected]
) -> Iterator[SliceToStore]:
    """Read slices one by one; those that cannot be are added to `rejected`."""
    for slice_id, source in slices:
        try:
            data = read_file(source)
            stored, header = parse_stored(data)
            if stored.shape != shape:
                raise UnreadableDicom("bad_value", "the file has changed since the table was made")
            pixels = stored_hounsfield_of(stored, header)
        except UnreadableDicom as error:
            rejected.append(Rejected(slice_id, source_path(source), error.reason, str(error)))
            continue
        crc32 = source.crc32 if isinstance(source, Member) else zlib.crc32(data)  # a member's was compared
        yield SliceToStore(slice_id, pixels, pixel_hash(stored), brain_share(pixels), crc32)


def _fingerprint(slices: list[tuple[str, Source]]) -> tuple[str, int]:
    """(a word that changes with the slices, their order and the sizes of their files, the newest file's time in ns).

    The word is the same for an archive as for the folder that it unpacks to.
    """
    digest, newest = hashlib.blake2b(digest_size=16), 0
    for slice_id, source in slices:
        size, changed = state_of(source)
        digest.update(f"{slice_id} {size}\n".encode())
        newest = max(newest, changed)
    return digest.hexdigest(), newest


def _same_members(kept: list[StoredSlice], slices: list[tuple[str, Source]]) -> bool:
    """Whether an archive's members still are what was stored; of files, their times say so."""
    stored = {row.ID: row.file_crc32 for row in kept}
    return all(
        stored.get(slice_id, source.crc32) == source.crc32 for slice_id, source in slices if isinstance(source, Member)
    )


def _clear_input(folder: Path, foreign: set[str], slice_ids: Iterable[str]) -> None:
    """Delete files that the table has another place for by now: their slices changed size, series, or cannot be read.

    Raises UserError for files of slices that the table does not know: those are of another input.
    """
    known = set(slice_ids) if foreign else set()
    outdated = []
    for name in sorted(foreign):
        rows = read_series_rows(folder / name)
        if rows is None or any(row.ID not in known for row in rows):
            raise UserError(
                f"{folder} holds slices that the table lacks, in {len(foreign)} files ({first_few(sorted(foreign))}): "
                "it was made from another input; delete it, or those files, or give another --output"
            )
        outdated.append(folder / name)
    for path in outdated:
        print(f"{path} is out of date: its slices are of another size or series now, or unreadable", file=sys.stderr)
        path.unlink()


def _check_disk(folder: Path, pixels: int) -> None:
    needed, free = pixels * BYTES_PER_PIXEL, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} will take about {_size(needed)} more, and its disk has {_size(free)} free; "
            "make room, or put cache/ on another disk (ICH_ROOT, or --output)"
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _index_table(rows: list[StoredSlice]) -> pd.DataFrame:
    kinds = {
        "position": "int32",
        "rows": "int32",
        "columns": "int32",
        "brain_share": "float64",
        "checksum": "uint64",
        "file_crc32": "uint32",
    }
    table = pd.DataFrame(rows, columns=list(INDEX_COLUMNS)).astype(kinds)
    return table.sort_values(["file", "position"], ignore_index=True)


def _rows(table: pd.DataFrame, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].tolist() for name in columns), strict=True)


def main() -> None:
    """Read arguments, fill the store or verify it, report."""
    parser = Parser(
        prog="python -m src.preprocess.create_dataset",
        description=__doc__,
        epilog="example: python -m src.preprocess.create_dataset --table cache/train.parquet --output cache/train",
    )
    parser.add_argument("--table", type=Path, help="the table that dicom_to_dataframe made; --verify needs none")
    parser.add_argument("--output", type=Path, required=True, help="the image store's folder")
    parser.add_argument("--verify", action="store_true", help="read every byte of the store, and name damaged files")
    parser.add_argument(
        "--max-rejected",
        type=share,
        default=MAX_REJECTED_SHARE,
        help=f"share of rejected slices that fails the run, from {MAX_REJECTED_COUNT} on (default %(default)s)",
    )
    add_engine_arguments(parser)
    args = parser.parse_args()
    engine = engine_arguments(args)
    if args.verify:
        print(f"{args.output}: {verify(args.output, **engine)} files, all as they were written")
        return
    if args.table is None:
        raise UserError("--table is missing; expected the table that src.preprocess.dicom_to_dataframe makes")
    table = read_table(args.table, TABLE_COLUMNS, made_by="src.preprocess.dicom_to_dataframe")
    index, rejected = create_dataset(table, args.output, **engine)
    why = f" ({count_reasons(rejected)})" if len(rejected) else ""
    print(f"{args.output}: {len(index)} slices stored, {len(rejected)} rejected{why}")
    check_rejected(rejected, len(table), args.max_rejected)


if __name__ == "__main__":
    run_command(main)
