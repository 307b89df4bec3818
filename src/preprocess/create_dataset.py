"""Fill the image store from DICOM pixels: HU with the wrong-intercept repair, pixel hash, brain fraction, rejects.

Each task is one series, and its file is written whole or not at all. A run that was stopped for any reason resumes with
the series whose files are missing, damaged or older than their slices. With --verify the whole store is read and
nothing is written.
"""

import hashlib
import logging
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from src.arguments import Parser, fraction
from src.ct.brain import brain_fraction
from src.dicom import REASONS, UnreadableDicom, clipped_hounsfield_of, parse_stored, read_file
from src.dicom.archive import ArchiveMember
from src.dicom.sources import SOURCE_COLUMNS, Source, locations_of, require_folder, source_path, sources_of, state_of
from src.errors import NotEnoughDisk, UserError, advising, first_few, run_command
from src.files.atomic import held_by_one_run, sweep_partials
from src.files.image_store import (
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
from src.files.rejected import Rejected, read_rejected, rejected_file, write_rejected
from src.files.tables import read_table, write_table
from src.files.timing import Timing, record_timing, timings_beside
from src.preprocess.engine import add_engine_arguments, engine_arguments, run_tasks

_log = logging.getLogger(__name__)

TABLE_COLUMNS = ("ID", "SeriesInstanceUID", "z_index", "rows", "columns", *SOURCE_COLUMNS, "reason", "message")

MAX_REJECTED_FRACTION = 0.01
MAX_REJECTED_COUNT = 10  # fewer rejected slices than this never fail a run, whatever their fraction


class TooManyRejected(UserError):  # noqa: N818 - it names the state of the input
    """More slices were rejected than a sound download has."""


class DamagedStore(UserError):  # noqa: N818 - it names the state of the store
    """A store whose files are not as they were written."""


class SeriesTask(NamedTuple):
    """One task: slices of one size, in z order, that are written to one file."""

    file: str
    rows: int
    columns: int
    slices: list[tuple[str, Source]]  # (ID, source of its bytes)


def create_dataset(table: pd.DataFrame, folder: Path, **engine: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill an image store with the slices of a table and return (index, rejected), which are also written to `folder`.

    index: a row per stored slice; rejected: a row per slice that is not stored because of its header or its pixels.
    Together they have every ID of the table once. engine: see `run_tasks`.

    Raises UserError if the store has another format or was made from another input, or if the disk has too little free
    space.
    """
    folder = folder.resolve()  # workers may have another working directory
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
            shared=[folder, *locations_of(usable)],
            **engine,
        )
        try:
            with closing(results):  # closing the generator ends the workers
                for stored, rejects in results:
                    index += stored
                    rejected += rejects
        finally:
            sweep_partials(folder)  # left by workers that died or were ended with the run
        if lost := {row.file for row in index} - series_files(folder):
            raise UserError(
                f"{folder} lacks {len(lost)} files that workers wrote, {first_few(sorted(lost))}: on another disk?"
            )
        rejected_table = pd.DataFrame(rejected, columns=list(Rejected._fields))
        index_table = _index_table(index)
        write_table(index_table, folder / "index.parquet", write_rejected(folder, rejected_table))
    return index_table, rejected_table


def store_series(
    folder: str, file: str, rows: int, columns: int, slices: list[tuple[str, Source]]
) -> tuple[list[StoredSlice], list[Rejected]]:
    """Read the slices of a series in z order and write its file; return (rows of the index, rejected slices).

    If there is already an intact file of the same slices that is not older than they are, only the slices that it lacks
    are read again. If one of them is readable now (a decoder was installed, a disk repaired), the file is rewritten.
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
        path.unlink(missing_ok=True)  # it was written when some of the slices were still readable
    elif path.stat().st_mtime_ns < newest:  # clocks differ, or the time of a slice is in the future
        os.utime(path, ns=(newest, newest))
    return written, rejected


def check_rejected(rejected: pd.DataFrame, total: int, max_fraction: float) -> None:
    """Raise UserError if more slices were rejected than an intact download would have."""
    if len(rejected) >= MAX_REJECTED_COUNT and len(rejected) > max_fraction * total:
        raise TooManyRejected(
            f"{len(rejected)} of {total} slices were rejected ({count_reasons(rejected)}), more than "
            f"{max_fraction:.1%}; see rejected.csv, and mend the download"
        )


def count_reasons(rejected: pd.DataFrame) -> str:
    """The number of rejected slices by reason, as text."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(rejected["reason"]).items()))


def verify(folder: Path, **engine: Any) -> int:
    """Read every byte of a store and return the number of its series files. engine: see `run_tasks`.

    Raises UserError naming the files that are damaged, missing or different from the index.
    """
    check_store(folder)
    index = read_table(folder / "index.parquet", INDEX_COLUMNS, step="preprocess")
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
        raise DamagedStore(
            f"{len(damaged)} of {len(files)} files of the store are damaged or missing: {first_few(damaged)}"
        )
    if not _index_table([row for file in files for row in carried[file]]).equals(
        index.sort_values(["file", "position"], ignore_index=True)
    ):
        raise DamagedStore(f"{folder / 'index.parquet'} is not the index of the files beside it")
    try:
        rejected = read_rejected(folder, REASONS)
    except UserError as error:
        raise DamagedStore(str(error)) from error
    if set(rejected["ID"]) & set(index["ID"]):
        raise DamagedStore(f"{rejected_file(folder)} has slices that are in the store")
    return len(files)


def _series_of(usable: pd.DataFrame) -> Iterator[SeriesTask]:
    """Divide the slices of a table into tasks, in a fixed order."""
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
                yield SeriesTask(series_file(uid, rows, columns, part), rows, columns, slices[first:last])
            start = end


def _read_slices(
    slices: list[tuple[str, Source]], shape: tuple[int, int], rejected: list[Rejected]
) -> Iterator[SliceToStore]:
    """Read slices one by one; unreadable ones are added to `rejected`."""
    for slice_id, source in slices:
        try:
            data = read_file(source)
            stored, header = parse_stored(data)
            if stored.shape != shape:
                raise UnreadableDicom("bad_value", "the file has changed since the table was made")
            pixels = clipped_hounsfield_of(stored, header)
        except UnreadableDicom as error:
            rejected.append(Rejected(slice_id, source_path(source), error.reason, str(error)))
            continue
        # the CRC of an archive member was already checked when it was read
        crc32 = source.crc32 if isinstance(source, ArchiveMember) else zlib.crc32(data)
        yield SliceToStore(slice_id, pixels, pixel_hash(stored), brain_fraction(pixels), crc32)


def _fingerprint(slices: list[tuple[str, Source]]) -> tuple[str, int]:
    """(fingerprint of the slices, their order and the sizes of their files; time of the newest file in ns).

    The fingerprint is the same for an archive as for the folder that it unpacks to.
    """
    digest, newest = hashlib.blake2b(digest_size=16), 0
    for slice_id, source in slices:
        size, changed = state_of(source)
        digest.update(f"{slice_id} {size}\n".encode())
        newest = max(newest, changed)
    return digest.hexdigest(), newest


def _same_members(kept: list[StoredSlice], slices: list[tuple[str, Source]]) -> bool:
    """Whether archive members still have the CRCs that were stored. Plain files are checked by their times instead."""
    stored = {row.ID: row.file_crc32 for row in kept}
    return all(
        stored.get(slice_id, source.crc32) == source.crc32
        for slice_id, source in slices
        if isinstance(source, ArchiveMember)
    )


def _clear_input(folder: Path, foreign: set[str], slice_ids: Iterable[str]) -> None:
    """Delete outdated files: in the table their slices now have another size or series, or an unreadable header.

    Raises UserError for files with slices that the table lacks, because those are from another input.
    """
    known = set(slice_ids) if foreign else set()
    outdated = []
    for name in sorted(foreign):
        rows = read_series_rows(folder / name)
        if rows is None or any(row.ID not in known for row in rows):
            raise UserError(
                f"{folder} holds slices that the table lacks, in {len(foreign)} files ({first_few(sorted(foreign))}): "
                "it was made from another input; delete it, or those files, or fill another folder"
            )
        outdated.append(folder / name)
    for path in outdated:
        _log.warning("%s is out of date: its slices are of another size or series now, or unreadable", path)
        path.unlink()


def _check_disk(folder: Path, pixels: int) -> None:
    needed, free = pixels * BYTES_PER_PIXEL, shutil.disk_usage(folder).free
    if needed > free:
        raise NotEnoughDisk(f"{folder} will take about {_size(needed)} more, and its disk has {_size(free)} free")


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
    """Read the arguments, fill or verify the store, and report."""
    parser = Parser(
        prog="python -m src.preprocess.create_dataset",
        description=__doc__,
        epilog="example: python -m src.preprocess.create_dataset --table cache/train.parquet --output cache/train",
    )
    parser.add_argument("--table", type=Path, help="table made by dicom_to_dataframe; not needed with --verify")
    parser.add_argument("--output", type=Path, required=True, help="folder of the image store")
    parser.add_argument("--verify", action="store_true", help="only read the whole store and name damaged files")
    parser.add_argument(
        "--max-rejected",
        type=fraction,
        default=MAX_REJECTED_FRACTION,
        help=f"fail above this fraction of rejected slices, if at least {MAX_REJECTED_COUNT} are rejected "
        "(default %(default)s)",
    )
    add_engine_arguments(parser)
    args = parser.parse_args()
    engine = engine_arguments(args)
    if args.verify:
        with advising(DamagedStore, "run the same command without --verify, and it is made anew"):
            print(f"{args.output}: {verify(args.output, **engine)} files, all as they were written")
        return
    if args.table is None:
        raise UserError("--table is missing; expected the table that src.preprocess.dicom_to_dataframe makes")
    table = read_table(args.table, TABLE_COLUMNS, step="preprocess")
    fresh, started = not args.output.is_dir() or not series_files(args.output), time.perf_counter()
    with advising(NotEnoughDisk, "make room, or put cache/ on another disk (ICH_ROOT, or --output)"):
        index, rejected = create_dataset(table, args.output, **engine)
    if fresh:  # what is there already takes a twentieth of the time
        seconds = time.perf_counter() - started
        record_timing(timings_beside(args.output), Timing("store", args.output.name, len(table), seconds))
    why = f" ({count_reasons(rejected)})" if len(rejected) else ""
    print(f"{args.output}: {len(index)} slices stored, {len(rejected)} rejected{why}")
    with advising(TooManyRejected, "or allow more with --max-rejected (MAX_REJECTED of preprocess.sh)"):
        check_rejected(rejected, len(table), args.max_rejected)


if __name__ == "__main__":
    run_command(main)
