"""The image store: every readable slice as int16 HU clipped to HU_RANGE, at its native size.

It is a folder with a file per series, `index.parquet`, which says where each slice is, and `store.json`, which says
which format the store has. A series file holds its slices in z order, each compressed and readable separately.
It is a Blosc2 frame (zstd after a byte shuffle) with a chunk per slice: `blosc2.open(file)[3]` is a slice, wherever
blosc2 is installed. A frame contains its rows of the index, so a series file is complete by itself and the index can
be rebuilt. It also contains two kinds of checksum (XXH3): one of all its bytes, and one of each slice's pixels, which
is verified whenever the slice is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import blosc2
import numpy as np
import pandas as pd
from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128

from src.documents import parse_json, read_text
from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.files.tables import read_table

FORMAT_VERSION = 2
SUFFIX = ".b2nd"
PIXELS_PER_FILE = 1 << 26  # 256 slices of 512 x 512; a longer series is split into several files to limit memory

# For the check of free disk space: a slice of 512 x 512 takes 82 KiB on a real head CT, up to 95 on noisy ones
BYTES_PER_PIXEL = 95 * 1024 / (512 * 512)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.~-]{0,99}")
_BLOCK_BYTES = 64 * 1024  # fits a core's cache, so that decompression stays within it
_CHECKSUM = re.compile(rb"xxh3:([0-9a-f]{16})")
_UNSET = b"xxh3:" + b"0" * 16
_HEAD_BYTES = 1024  # of a file; the checksum is within these first bytes


class StoredSlice(NamedTuple):
    """A row of the index: what the store records about a slice besides its pixels."""

    ID: str
    file: str
    position: int  # in the file
    rows: int
    columns: int
    pixel_hash: str  # of the pixels as stored in the DICOM file, before any conversion
    brain_share: float
    checksum: int  # of the pixels as kept in the image store
    file_crc32: int  # of the DICOM file's bytes, as a zip archive records it too


INDEX_COLUMNS = StoredSlice._fields


@dataclass(frozen=True)
class SliceToStore:
    """A slice to be written to the store. pixels: int16 HU (rows, columns); the other fields as in StoredSlice."""

    ID: str
    pixels: np.ndarray
    pixel_hash: str
    brain_share: float
    file_crc32: int


def pixel_hash(stored: np.ndarray) -> str:
    """A hash of stored pixels and their shape: equal for identical images, whatever else their files contain."""
    # equal values must give equal bytes: as 16 bits where they fit, which is nearly always, otherwise as 32
    if stored.dtype.itemsize > 2 or (stored.dtype == np.uint16 and stored.max(initial=0) > np.iinfo(np.int16).max):
        low, high = stored.min(initial=0), stored.max(initial=0)
        fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
        stored = stored.astype(np.int16 if fits else np.int32)
    else:
        stored = stored.astype(np.int16, copy=False)
    digest = xxh3_128(f"{stored.shape} {stored.dtype.itemsize} ".encode())
    digest.update(np.ascontiguousarray(stored).data)
    return digest.hexdigest()


def series_file(series_uid: str, rows: int, columns: int, part: int = 0) -> str:
    """The name of a series' file. Slices whose size differs from the rest of their series have their own file."""
    # a UID comes unchecked from the header, and must lead neither out of the folder nor to another's file
    safe = _SAFE_NAME.fullmatch(series_uid)
    name = series_uid if safe else f"sha256={hashlib.sha256(series_uid.encode()).hexdigest()}"
    return f"{name}_{rows}x{columns}{f'.part{part}' if part else ''}{SUFFIX}"


def write_series(
    path: Path, slices: Iterable[SliceToStore], *, most: int, shape: tuple[int, int], source: str
) -> list[StoredSlice]:
    """Write one series, atomically, and return its rows of the index. Without slices no file is written.

    slices: in z order, consumed one at a time, at most `most` of them; shape: (rows, columns) of each; source: a
    fingerprint of the series' input, by which a later run can tell whether this file was made from the same input.
    """
    rows, columns = shape
    frame = blosc2.empty(
        (most, rows, columns),
        dtype=np.int16,
        chunks=(1, rows, columns),
        blocks=(1, _block_rows(rows, columns), columns),
        cparams=blosc2.CParams(
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            filters=[blosc2.Filter.SHUFFLE],
            splitmode=blosc2.SplitMode.ALWAYS_SPLIT,
            typesize=2,
            nthreads=1,
        ),
        dparams=blosc2.DParams(nthreads=1),
        meta={"checksum": _UNSET},
        contiguous=True,
    )
    stored = []
    for position, each in enumerate(slices):
        pixels = np.ascontiguousarray(each.pixels)
        frame.schunk.update_data(position, pixels, copy=False)  # a chunk is a slice, row by row
        stored.append(
            StoredSlice(
                each.ID,
                path.name,
                position,
                rows,
                columns,
                each.pixel_hash,
                each.brain_share,
                _checksum_of(pixels),
                each.file_crc32,
            )
        )
    if not stored:
        return stored
    frame.resize((len(stored), rows, columns))
    frame.schunk.vlmeta["about"] = json.dumps({"format": FORMAT_VERSION, "source": source, "slices": stored})
    # built in memory and written at once, so that a failed write raises an OSError that says why
    data = memoryview(frame.to_cframe())
    at = bytes(data[:_HEAD_BYTES]).index(_UNSET)
    with replacing(path, sweep=False) as temporary, temporary.open("wb") as file:
        file.write(data[:at])
        file.write(b"xxh3:%016x" % xxh3_64_intdigest(data))
        file.write(data[at + len(_UNSET) :])
    return stored


def _block_rows(rows: int, columns: int) -> int:
    """How many rows of a slice are compressed together.

    It is a divisor of the rows, so that a chunk holds its blocks without padding, as plain rows.
    """
    most = max(1, _BLOCK_BYTES // (columns * 2))
    divisor = next(each for each in range(min(most, rows), 0, -1) if rows % each == 0)
    return divisor if divisor > most // 8 else rows  # the whole slice without a useful divisor, as for a prime


def read_series_rows(path: Path, source: str | None = None) -> list[StoredSlice] | None:
    """The rows of the index that a series' file contains, after the checksum of all its bytes was verified.

    None where the file is missing or damaged, where its name differs from the one in its rows, or where it was made
    from another `source`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not _is_whole(data):
        return None
    try:
        frame = blosc2.ndarray_from_cframe(data)
        about = parse_json(frame.schunk.vlmeta["about"])
        if about["format"] != FORMAT_VERSION or (source is not None and about["source"] != source):
            return None
        rows = [StoredSlice(*row) for row in about["slices"]]
    except (KeyError, TypeError, ValueError, RuntimeError):  # of a file that was not written here
        return None
    return rows if all(row.file == path.name for row in rows) else None


def _is_whole(data: bytes) -> bool:
    """Whether the bytes of a file match the checksum in them, which is computed with its own digits set to 0."""
    found = _CHECKSUM.search(data, 0, _HEAD_BYTES)
    if found is None:
        return False
    digest = xxh3_64(memoryview(data)[: found.start()])
    digest.update(_UNSET)
    digest.update(memoryview(data)[found.end() :])
    return digest.intdigest() == int(found[1], 16)


def _checksum_of(pixels: np.ndarray) -> int:
    return xxh3_64_intdigest(pixels.data)


def series_files(folder: Path) -> set[str]:
    """The names of the series files in a store."""
    return {entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX) and entry.name[0] != "."}


def make_store(folder: Path) -> None:
    """Make a folder an image store, if it is not one yet. Raises UserError where it is one of another format."""
    if series_files(folder):
        check_store(folder)
    about = folder / "store.json"
    if _noted_format(about) != FORMAT_VERSION:
        with replacing(about) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT_VERSION}) + "\n")


def check_store(folder: Path) -> None:
    """Raise UserError where a folder is not an image store of this version's format."""
    files = series_files(folder) if folder.is_dir() else set()
    found = _noted_format(folder / "store.json")
    if found is None:
        if not files:
            raise UserError(f"{folder} is no image store", step="preprocess")
        # format 1 had no store.json; if a series file is readable in this version's format, store.json was lost
        ours = any(read_series_rows(folder / name) is not None for name in sorted(files)[:10])
        found = FORMAT_VERSION if ours else 1
    if found != FORMAT_VERSION:
        raise UserError(
            f"{folder} is an image store of format {found}, this version reads and writes format {FORMAT_VERSION}; "
            "delete that folder",
            step="preprocess",
        )


def _noted_format(about: Path) -> int | None:
    try:
        return int(parse_json(read_text(about))["format"])
    except (UserError, OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


class ImageStore:
    """Reads slices from a folder that `create_dataset` made.

    The store is opened once and can be handed to worker processes, because it keeps no files open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "index.parquet"
        if index.is_file():
            check_store(self.folder)
        self.index = read_table(index, INDEX_COLUMNS, step="preprocess")

    @cached_property
    def _ids(self) -> pd.Index:
        return pd.Index(self.index["ID"])

    @cached_property
    def _places(self) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
        # arrays, because forked loaders share their memory, whereas a dictionary would gradually be copied into each
        codes, files = pd.factorize(self.index["file"])
        return codes, list(files), self.index["position"].to_numpy(), self.index["checksum"].to_numpy()

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, slice_id: str) -> bool:
        return slice_id in self._ids

    def rows(self, slice_ids: Iterable[str]) -> np.ndarray:
        """The rows of these slices in the index, from 0: (N,) int64. Raises UserError naming the first unknown ids."""
        slice_ids = list(slice_ids)
        rows: np.ndarray = self._ids.get_indexer(pd.Index(slice_ids, dtype=self._ids.dtype))
        lacking = [slice_ids[i] for i in np.flatnonzero(rows < 0)]
        if lacking:
            raise UserError(
                f"{len(lacking)} slices are not in the image store {self.folder}: {first_few(lacking)}",
                step="preprocess",
            )
        return rows

    def fingerprint(self, rows: np.ndarray) -> str:
        """A fingerprint of the slices of these rows of the index: of their ids, their order and their pixels."""
        digest = hashlib.blake2b(digest_size=16)
        named = self.index[["ID", "pixel_hash"]].iloc[rows]
        for slice_id, pixels in zip(named["ID"], named["pixel_hash"], strict=True):
            digest.update(f"{slice_id} {pixels}\n".encode())
        return digest.hexdigest()

    def hounsfield(self, slice_id: str) -> np.ndarray:
        """One slice: int16 HU (rows, columns), clipped to HU_RANGE.

        Raises UserError where the slice is missing or does not match its checksum.
        """
        return self.read(self.rows([slice_id])[0])

    def read(self, row: int) -> np.ndarray:
        """The slice of a row of the index, as from `hounsfield`."""
        codes, files, positions, checksums = self._places
        path = self.folder / files[codes[row]]
        try:
            opened = _open(path)
            shape = (int(self.index["rows"].iloc[row]), int(self.index["columns"].iloc[row]))
            if (opened.shape[1:], opened.chunks, opened.dtype) != (shape, (1, *shape), np.int16):
                raise ValueError(f"slices of {opened.shape[1:]}, expected {shape}")  # before memory is taken for them
            pixels: np.ndarray = opened[int(positions[row])]
            if _checksum_of(pixels) != checksums[row]:
                raise ValueError(f"slice {self.index['ID'].iloc[row]} does not have its checksum")
        except Exception as error:  # a damaged header can make blosc2 raise anything
            raise UserError(f"{path} is damaged ({error})", step="preprocess") from error
        return pixels


def _open(path: Path) -> blosc2.NDArray:
    # one thread, because the loader's workers already run in parallel, and Blosc2's threads do not survive a fork
    return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
