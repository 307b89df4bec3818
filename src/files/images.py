"""The image store: every readable slice as int16 HU clipped to STORED_RANGE, at its native size.

A folder with a file per series, its slices in z order, each compressed and readable alone; and `index.parquet`, which
says where each slice is. The files are Blosc2 frames (zstd after a byte shuffle), a chunk a slice. A frame carries the
rows of the index that belong to it, so a series is whole by itself and the index can be rebuilt.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import blosc2
import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.files.tables import read_table

FORMAT_VERSION = 1
INDEX_COLUMNS = ("ID", "file", "position", "rows", "columns", "pixel_hash", "brain_share")

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_BLOCK_BYTES = 128 * 1024  # what fits a core's cache, so that a slice decompresses there


@dataclass(frozen=True)
class StoredSlice:
    """What the store knows of a slice besides its pixels."""

    ID: str
    pixel_hash: str  # of the pixels as the DICOM file stored them, whatever the store does to them
    brain_share: float


def pixel_hash(stored: np.ndarray) -> str:
    """A hash of stored pixels and their shape: equal for identical images, whatever the file around them."""
    digest = hashlib.blake2b(repr(stored.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(stored, dtype=np.int32).data)
    return digest.hexdigest()


def series_file(series_uid: str, rows: int, columns: int) -> str:
    """The name of a series' file. Slices of another size than the rest of their series have a file of their own."""
    # a UID is whatever the header says; it must not lead out of the folder
    name = series_uid if _SAFE_NAME.fullmatch(series_uid) else hashlib.sha256(series_uid.encode()).hexdigest()[:32]
    return f"{name}_{rows}x{columns}.b2nd"


def write_series(path: Path, pixels: np.ndarray, slices: list[StoredSlice], source: str) -> None:
    """Write one series, atomically.

    pixels: (N, rows, columns) int16 HU in z order; slices: N of them, in the same order; source: a word that changes
    when the series' input does, so that a later run can tell whether this file is still of that input.
    """
    _, rows, columns = pixels.shape
    block_rows = max(1, min(rows, _BLOCK_BYTES // (columns * pixels.itemsize)))
    about = {"format": FORMAT_VERSION, "source": source, "slices": [asdict(each) for each in slices]}
    with replacing(path) as temporary:
        blosc2.asarray(
            pixels,
            urlpath=str(temporary),
            mode="w",
            chunks=(1, rows, columns),
            blocks=(1, block_rows, columns),
            cparams=blosc2.CParams(
                codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], typesize=2, nthreads=1
            ),
            meta={"about": json.dumps(about).encode()},
        )


def read_series_rows(path: Path, source: str) -> pd.DataFrame | None:
    """The rows of the index that a series' file carries; None where it is absent or of another `source` or format."""
    try:
        array = _open(path)
        about = json.loads(array.schunk.meta["about"])
    except (OSError, RuntimeError, ValueError, KeyError):
        return None  # absent or damaged: the caller writes it anew
    if about["format"] != FORMAT_VERSION or about["source"] != source:
        return None
    rows = pd.DataFrame(about["slices"])
    _, rows["rows"], rows["columns"] = array.shape
    return rows.assign(file=path.name, position=np.arange(len(rows)))[list(INDEX_COLUMNS)]


class ImageStore:
    """Reads slices from a folder that `create_dataset` made.

    The store is opened once and may be handed to worker processes: it keeps no open files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.index = read_table(self.folder / "index.parquet", INDEX_COLUMNS, made_by="bin/preprocess.sh")

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        ids, files, positions = (self.index[name].tolist() for name in ("ID", "file", "position"))
        return dict(zip(ids, zip(files, positions, strict=True), strict=True))

    def __contains__(self, slice_id: str) -> bool:
        return slice_id in self._places

    def require(self, slice_ids: Iterable[str]) -> None:
        """Raise UserError naming the first few of these slices that are not in the store."""
        lacking = [slice_id for slice_id in slice_ids if slice_id not in self]
        if lacking:
            raise UserError(
                f"{len(lacking)} slices are not in the image store {self.folder}: {first_few(lacking)}; "
                "run bin/preprocess.sh again"
            )

    def fingerprint(self, slice_ids: list[str]) -> str:
        """A word that changes when these slices, their order or their pixels do. Raises UserError for unknown ones."""
        self.require(slice_ids)
        hashes = dict(zip(self.index["ID"], self.index["pixel_hash"], strict=True))
        digest = hashlib.blake2b(digest_size=16)
        for slice_id in slice_ids:
            digest.update(f"{slice_id} {hashes[slice_id]}\n".encode())
        return digest.hexdigest()

    def hounsfield(self, slice_id: str) -> np.ndarray:
        """One slice: int16 HU (rows, columns), clipped to STORED_RANGE. Raises UserError where it is not there."""
        self.require([slice_id])
        name, position = self._places[slice_id]
        try:
            pixels: np.ndarray = _open(self.folder / name)[position]
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.folder / name} is damaged ({error}); delete it and run bin/preprocess.sh again"
            ) from error
        return pixels


def _open(path: Path) -> blosc2.NDArray:
    # one thread: the loader's workers are the parallelism, and Blosc2's own threads do not survive a fork
    return blosc2.open(str(path), mode="r", dparams=blosc2.DParams(nthreads=1))
