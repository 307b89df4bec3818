"""From HU to a network's input: a slice, or a slice with its adjacent ones along z (2.5D)."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from src.config import Config
from src.ct.hounsfield import HU_RANGE, to_unit
from src.ct.series import adjacent_slices
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.slice_positions import read_slice_positions


def network_input(hu: np.ndarray, config: Config) -> np.ndarray:
    """A network's input, from HU: (rows, columns, slices) int16 -> (slices, image_size, image_size) float32 in [0, 1].

    hu: clipped to HU_RANGE, which becomes [0, 1]; slices: 2 * neighbours + 1. Validation, prediction, embedding and the
    detector all come through here. Slices are padded with air to a square, never stretched.
    """
    return channels_first(resize(square_unit(hu), config.image_size))


def square_unit(hu: np.ndarray) -> np.ndarray:
    """What augmentation takes, from HU: (rows, columns, slices) int16 -> (side, side, slices) float32 in [0, 1]."""
    return pad_to_square(to_unit(hu))


def stack_slices(slices: Sequence[np.ndarray]) -> np.ndarray:
    """Stack slices around the middle one: K arrays (rows, columns) of int16 HU -> (rows, columns, K) int16 HU.

    One of another size than the middle one is padded to a square and brought to its size, whose own becomes square too.
    """
    middle = slices[len(slices) // 2]
    if any(each.shape != middle.shape for each in slices):
        side = max(middle.shape)
        squares = (pad_to_square(each[..., None], air=HU_RANGE[0])[..., 0] for each in slices)
        slices = [np.rint(resize(each.astype(np.float32), side)).astype(np.int16) for each in squares]
    stacked: np.ndarray = cv2.merge(list(slices))
    return stacked.reshape(*stacked.shape[:2], len(slices))  # OpenCV drops a single channel's axis


class SliceInputs:
    """N inputs of a network: slices of an image store, each with its adjacent ones.

    ids: (N,) of the slices themselves, which targets and probabilities belong to; rows: (N, 2 * neighbours + 1) of the
    store's index, from smaller z to larger, the slice itself in the middle. Handed to worker processes by a fork, it
    costs them no memory.
    """

    def __init__(self, store: ImageStore, ids: list[str], rows: np.ndarray) -> None:
        self.store, self.ids, self.rows = store, ids, rows
        self._last: dict[int, np.ndarray] = {}  # the slices that were read last, by their rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> "SliceInputs":
        """Some of them, by a mask or by indices."""
        return SliceInputs(self.store, np.array(self.ids, dtype=object)[chosen].tolist(), self.rows[chosen])

    def read(self, index: int) -> np.ndarray:
        """One slice with its adjacent ones: (rows, columns, 2 * neighbours + 1) int16 HU.

        Along a series each slice is decoded once.
        """
        rows = self.rows[index].tolist()
        self._last = {
            row: self._last[row] if row in self._last else self.store.read(row) for row in dict.fromkeys(rows)
        }
        return stack_slices([self._last[row] for row in rows])

    def fingerprint(self) -> str:
        """A hash of the slices, their order and their pixels."""
        return self.store.fingerprint(self.rows.ravel())


def find_inputs(layout: Layout, split: str, neighbours: int, ids: list[str] | None = None) -> SliceInputs:
    """The inputs of some slices of a split ("train" or "test"), or of all that its store has.

    At an end of a series its outermost slice stands for those beyond it, and so does a slice itself where its z is
    unknown. Slices that the store lacks, since they could not be read, are passed over. Raises UserError for slices
    asked for that the store lacks.
    """
    store = ImageStore(layout.store(split))
    ids = store.index["ID"].tolist() if ids is None else ids
    rows = store.rows(ids)
    if not neighbours:
        return SliceInputs(store, ids, rows[:, None])
    positions = read_slice_positions(layout.table(split), pd.Index(store.index["ID"]))
    return SliceInputs(store, ids, adjacent_slices(positions.series, positions.z, neighbours)[rows])


def pad_to_square(image: np.ndarray, air: float = 0) -> np.ndarray:
    """Centre (rows, columns, slices) in a square of air, which is 0 where HU_RANGE is [0, 1]."""
    rows, columns = image.shape[:2]
    if rows == columns:
        return image
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    padding = ((top, side - rows - top), (left, side - columns - left), (0, 0))
    return np.pad(image, padding, constant_values=air)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Resize a square, (n, n) or (n, n, slices) to (side, side), averaging where it shrinks: small bleeds stay."""
    if image.shape[0] == side:
        return image
    method = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(image, (side, side), interpolation=method)
    return resized.reshape(side, side, *image.shape[2:])  # OpenCV drops a single channel's axis


def channels_first(image: np.ndarray) -> np.ndarray:
    """(rows, columns, slices) -> (slices, rows, columns)."""
    return np.stack(cv2.split(image)) if image.shape[-1] > 1 else image[None, ..., 0]
