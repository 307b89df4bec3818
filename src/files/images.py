"""The image store: every readable slice as int16 HU clipped to STORED_RANGE, at its native size.

A folder with a file per series, its slices in z order, each compressed and readable alone; `index.parquet`, which says
where each slice is; and `store.json`, which says what kind of store it is. The files are Blosc2 frames (zstd after a
byte shuffle), a chunk a slice: `blosc2.open(file)[3]` is a slice, wherever blosc2 is installed. A frame carries the
rows of the index that belong to it, so a series is whole by itself and the index can be rebuilt; and two kinds of
checksum (XXH3): one of all its bytes, one of each slice's pixels, which is looked at whenever the slice is read.
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

from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.files.tables import read_table

FORMAT_VERSION = 2
SUFFIX = ".b2nd"
PIXELS_PER_FILE = 1 << 26  # 256 slices of 512 x 512; a longer series takes several files, so that memory stays bounded

# On a real head CT 82 KiB a slice of 512 x 512, and up to 95 on noisy ones: what is asked of the disk in advance
BYTES_PER_PIXEL = 95 * 1024 / (512 * 512)

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_BLOCK_BYTES = 64 * 1024  # what fits a core's cache, so that a slice decompresses there
_CHECKSUM = re.compile(rb"xxh3:([0-9a-f]{16})")
_UNSET = b"xxh3:" + b"0" * 16
_HEAD_BYTES = 1024  # of a file: the checksum lies within them


class StoredSlice(NamedTuple):
    """A row of the index: what the store knows of a slice besides its pixels."""

    ID: str
    file: str
    position: int  # in the file
    rows: int
    columns: int
    pixel_hash: str  # of the pixels as the DICOM file stored them, whatever the store does to them
    brain_share: float
    checksum: int  # of the pixels as the store keeps them
    file_crc32: int  # of the DICOM file's bytes, as a zip states it too


INDEX_COLUMNS = StoredSlice._fields


@dataclass(frozen=True)
class SliceToStore:
    """A slice on its way into the store. pixels: int16 HU (rows, columns); the rest as in StoredSlice."""

    ID: str
    pixels: np.ndarray
    pixel_hash: str
    brain_share: float
    file_crc32: int


def pixel_hash(stored: np.ndarray) -> str:
    """A hash of stored pixels and their shape: equal for identical images, whatever the file around them."""
    # equal values make equal bytes: in 16 bits where they fit, which is nearly always, else in 32
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
    """The name of a series' file. Slices of another size than the rest of their series have a file of their own."""
    # a UID is whatever the header says; it must not lead out of the folder
    name = series_uid if _SAFE_NAME.fullmatch(series_uid) else hashlib.sha256(series_uid.encode()).hexdigest()[:32]
    return f"{name}_{rows}x{columns}{f'.part{part}' if part else ''}{SUFFIX}"


def write_series(
    path: Path, slices: Iterable[SliceToStore], *, most: int, shape: tuple[int, int], source: str
) -> list[StoredSlice]:
    """Write one series, atomically, and return its rows of the index; no file for no slices.

    slices: in z order, taken one at a time, `most` of them or fewer; shape: (rows, columns) of each; source: a word
    that changes when the series' input does, so that a later run can tell whether this file is still of that input.
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
    # made in memory, then written at once: what the disk refuses is an OSError that says why
    data = memoryview(frame.to_cframe())
    at = bytes(data[:_HEAD_BYTES]).index(_UNSET)
    with replacing(path, sweep=False) as temporary, temporary.open("wb") as file:
        file.write(data[:at])
        file.write(b"xxh3:%016x" % xxh3_64_intdigest(data))
        file.write(data[at + len(_UNSET) :])
    return stored


def _block_rows(rows: int, columns: int) -> int:
    """How many rows of a slice are compressed together.

    A divisor of the rows, so that a chunk holds its blocks without padding, as plain rows.
    """
    most = max(1, _BLOCK_BYTES // (columns * 2))
    divisor = next(each for each in range(min(most, rows), 0, -1) if rows % each == 0)
    return divisor if divisor > most // 8 else rows  # no sensible one, as for a prime number of rows: the whole slice


def read_series_rows(path: Path, source: str | None = None) -> list[StoredSlice] | None:
    """The rows of the index that a series' file carries, after a look at all its bytes.

    None where the file is absent, damaged, of another name than its slices say or of another `source`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not _is_whole(data):
        return None
    frame = blosc2.ndarray_from_cframe(data)
    about = json.loads(frame.schunk.vlmeta["about"])
    if about["format"] != FORMAT_VERSION or (source is not None and about["source"] != source):
        return None
    rows = [StoredSlice(*row) for row in about["slices"]]
    return rows if all(row.file == path.name for row in rows) else None


def _is_whole(data: bytes) -> bool:
    """Whether the bytes of a file have the checksum that they carry. It is made with its own digits at 0."""
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
    """The names of the series' files in a store."""
    return {entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX) and entry.name[0] != "."}


def make_store(folder: Path) -> None:
    """Make a folder an image store, if it is none yet. Raises UserError where it is one of another format."""
    if series_files(folder):
        check_store(folder)
    about = folder / "store.json"
    if _noted_format(about) != FORMAT_VERSION:
        with replacing(about) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT_VERSION}) + "\n")


def check_store(folder: Path) -> None:
    """Raise UserError where a folder is no image store of this version's format."""
    files = series_files(folder) if folder.is_dir() else set()
    found = _noted_format(folder / "store.json")
    if found is None:
        if not files:
            raise UserError(f"{folder} is no image store; bin/preprocess.sh makes it")
        # the first format had no such note; of this one it was lost, if any file of the store says so
        ours = any(read_series_rows(folder / name) is not None for name in sorted(files)[:10])
        found = FORMAT_VERSION if ours else 1
    if found != FORMAT_VERSION:
        raise UserError(
            f"{folder} is an image store of format {found}, this version reads and writes format {FORMAT_VERSION}; "
            "delete that folder and run bin/preprocess.sh again"
        )


def _noted_format(about: Path) -> int | None:
    try:
        return int(json.loads(about.read_text())["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ImageStore:
    """Reads slices from a folder that `create_dataset` made.

    The store is opened once and may be handed to worker processes: it keeps no open files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "index.parquet"
        if index.is_file():
            check_store(self.folder)
        self.index = read_table(index, INDEX_COLUMNS, made_by="bin/preprocess.sh")

    @cached_property
    def _ids(self) -> pd.Index:
        return pd.Index(self.index["ID"])

    @cached_property
    def _places(self) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
        # arrays, not a dictionary: a dozen forked loaders share their memory, and would copy a dictionary's in time
        codes, files = pd.factorize(self.index["file"])
        return codes, list(files), self.index["position"].to_numpy(), self.index["checksum"].to_numpy()

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, slice_id: str) -> bool:
        return slice_id in self._ids

    def rows(self, slice_ids: Iterable[str]) -> np.ndarray:
        """Where these slices stand in the index, from 0: (N,) int64. Raises UserError naming the first few unknown."""
        slice_ids = list(slice_ids)
        rows: np.ndarray = self._ids.get_indexer(pd.Index(slice_ids, dtype=self._ids.dtype))
        lacking = [slice_ids[i] for i in np.flatnonzero(rows < 0)]
        if lacking:
            raise UserError(
                f"{len(lacking)} slices are not in the image store {self.folder}: {first_few(lacking)}; "
                "run bin/preprocess.sh again"
            )
        return rows

    def fingerprint(self, rows: np.ndarray) -> str:
        """A word that changes when the slices of these rows of the index, their order or their pixels do."""
        digest = hashlib.blake2b(digest_size=16)
        named = self.index[["ID", "pixel_hash"]].iloc[rows]
        for slice_id, pixels in zip(named["ID"], named["pixel_hash"], strict=True):
            digest.update(f"{slice_id} {pixels}\n".encode())
        return digest.hexdigest()

    def hounsfield(self, slice_id: str) -> np.ndarray:
        """One slice: int16 HU (rows, columns), clipped to STORED_RANGE.

        Raises UserError where it is not there, or is not what was stored.
        """
        return self.read(self.rows([slice_id])[0])

    def read(self, row: int) -> np.ndarray:
        """The slice of a row of the index: as `hounsfield`."""
        codes, files, positions, checksums = self._places
        path = self.folder / files[codes[row]]
        try:
            pixels: np.ndarray = _open(path)[int(positions[row])]
            if _checksum_of(pixels) != checksums[row]:
                raise ValueError(f"slice {self.index['ID'].iloc[row]} does not have its checksum")
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(f"{path} is damaged ({error}); run bin/preprocess.sh again") from error
        return pixels


def _open(path: Path) -> blosc2.NDArray:
    # one thread: the loader's workers are the parallelism, and Blosc2's own threads do not survive a fork
    return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
