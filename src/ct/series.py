"""Series of slices: their order along the normal, which of them are adjacent, and the gaps between them.

Needs only numpy. Source of the order: DICOM PS3.3 C.7.6.2.1.1; the position along the normal is in src/ct/geometry.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Series:
    """S slices of one series, the input of a detector.

    pixels: S arrays (rows, columns) of int16 HU, clipped to HU_RANGE; their sizes may differ. z: (S,) mm along the
    normal, NaN where it is unknown. ids: S unique names, for example SOPInstanceUIDs. Raises ValueError for anything
    else.
    """

    pixels: Sequence[np.ndarray]
    z: np.ndarray
    ids: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.z) == len(self.ids):
            raise ValueError(f"{len(self.pixels)} slices, {len(self.z)} positions and {len(self.ids)} ids")
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("ids that come more than once")
        for slice_id, pixels in zip(self.ids, self.pixels, strict=True):
            if pixels.ndim != 2 or not pixels.size or pixels.dtype != np.int16:
                raise ValueError(f"slice {slice_id}: {pixels.dtype} of shape {pixels.shape}; expected 2D int16 HU")
        if np.isinf(np.asarray(self.z, dtype=np.float64)).any():
            raise ValueError("an infinite z; expected millimetres, or NaN where z is unknown")

    def __len__(self) -> int:
        return len(self.ids)

    def order(self) -> np.ndarray:
        """Indices (S,) that sort the slices along the normal: equal z by id, unknown z last."""
        return np.lexsort((np.array(self.ids, dtype=str), np.asarray(self.z, dtype=np.float64)))


def order_by_series(series: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order slices series by series, each along z: (order (N,), starts (S + 1,) of the S series in it).

    series: (N,) integers; z: (N,) mm. Slices of equal z keep their order. A slice whose z is unknown (NaN) counts as
    a series by itself, placed after its own.
    """
    order = np.lexsort((np.arange(len(z)), z, series))  # NaN last
    sorted_series, known = series[order], ~np.isnan(z[order])
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (sorted_series[1:] != sorted_series[:-1]) | ~known[1:]
    return order, np.append(np.flatnonzero(begins), len(order))


def adjacent_slices(series: np.ndarray, z: np.ndarray, neighbours: int) -> np.ndarray:
    """The indices of each slice and its adjacent slices along z: (N, 2 * neighbours + 1), the slice in the middle.

    series, z: as in `order_by_series`. At the ends of a series its outermost slice is repeated.
    """
    order, starts = order_by_series(series, z)
    lengths = np.diff(starts)
    first = np.repeat(starts[:-1], lengths)[:, None]
    last = np.repeat(starts[1:] - 1, lengths)[:, None]
    offsets = np.arange(-neighbours, neighbours + 1)
    adjacent = np.empty((len(order), len(offsets)), dtype=np.int64)
    adjacent[order] = order[np.clip(np.arange(len(order))[:, None] + offsets, first, last)]
    return adjacent


def slice_gaps(z: np.ndarray) -> np.ndarray:
    """Gaps between adjacent slice planes of a series: (N,) mm in any order -> (N - 1,) mm."""
    return np.diff(np.sort(z))
