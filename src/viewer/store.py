"""Slices of the studies in the list, in a temporary folder: they are read one at a time, so that memory holds none."""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.errors import NotEnoughDisk
from src.pages.codec import bytes_of_maps

MIN_FREE_BYTES = 1 << 30  # of the disk, which others need too


@dataclass(frozen=True)
class KeptSlices:
    """The slices of a series in a file, one after the other, and its class activation maps in another."""

    folder: Path
    shapes: Sequence[tuple[int, int]]

    def slice(self, index: int) -> np.ndarray:
        """(rows, columns) int16 HU. Raises IndexError, and OSError where the series was removed meanwhile."""
        if not 0 <= index < len(self.shapes):
            raise IndexError(index)
        before = sum(rows * columns for rows, columns in self.shapes[:index])
        rows, columns = self.shapes[index]
        values = np.fromfile(self.folder / "slices", np.int16, rows * columns, offset=2 * before)
        return values.reshape(rows, columns)

    def keep_maps(self, maps: np.ndarray) -> None:
        """Add class activation maps, (S, 6, rows, columns) in [0, 1]."""
        partial = self.folder / "partial.npy"
        np.save(partial, bytes_of_maps(maps))
        partial.replace(self.folder / "maps.npy")  # a browser may ask for one meanwhile

    def maps(self, index: int) -> np.ndarray:
        """The maps of a slice: (6, rows, columns) uint8, 255 for 1. Raises IndexError, and OSError without maps."""
        if not 0 <= index < len(self.shapes):
            raise IndexError(index)
        return np.array(np.load(self.folder / "maps.npy", mmap_mode="r")[index])

    def remove(self) -> None:
        """Delete both files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Store:
    """Where slices are kept. folder: temporary, deleted by whoever made it. min_free: bytes that stay free."""

    def __init__(self, folder: Path, *, min_free: int = MIN_FREE_BYTES) -> None:
        self.folder, self.min_free = folder, min_free

    def keep(self, name: str, pixels: Sequence[np.ndarray]) -> KeptSlices:
        """Write the slices of a series, (rows, columns) int16 HU each. Raises NotEnoughDisk."""
        self.require(2 * sum(each.size for each in pixels))
        kept = KeptSlices(self.folder / name, [(each.shape[0], each.shape[1]) for each in pixels])
        kept.folder.mkdir()
        try:
            with (kept.folder / "slices").open("wb") as file:
                for each in pixels:
                    each.astype(np.int16).tofile(file)
        except OSError as error:
            kept.remove()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # numpy's own error has no number
                raise NotEnoughDisk(f"no room for the slices of a series in {self.folder.parent}") from error
            raise
        return kept

    def require(self, size: int) -> None:
        """Raise NotEnoughDisk where the disk has no room for `size` more bytes."""
        free = shutil.disk_usage(self.folder).free
        if free < size + self.min_free:
            raise NotEnoughDisk(
                f"no room in the temporary folder: {free >> 20} MB are free, {(size + self.min_free) >> 20} MB are "
                "needed; remove studies from the list"
            )
