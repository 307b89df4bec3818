"""What a network looks at together: a slice, or with its neighbours along z (2.5D), padded to a square."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from src.ct.hounsfield import to_unit
from src.errors import UserError
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table


class Stacks:
    """N stacks of 2 * neighbours + 1 slices, from the previous ones (smaller z) to the next, in the middle the slice
    that a row of targets or probabilities belongs to.

    ids: (N,) of the middle slices; rows: (N, 2 * neighbours + 1) of the store's index. Handed to worker processes by a
    fork, it costs them no memory.
    """

    def __init__(self, store: ImageStore, ids: list[str], rows: np.ndarray) -> None:
        self.store, self.ids, self.rows = store, ids, rows
        self._last: dict[int, np.ndarray] = {}  # the slices of the stack that was read last, by their rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> "Stacks":
        """Some of them, by a mask or by indices."""
        return Stacks(self.store, np.array(self.ids, dtype=object)[chosen].tolist(), self.rows[chosen])

    def read(self, index: int) -> np.ndarray:
        """One stack: (side, side, 2 * neighbours + 1) float32, STORED_RANGE as [0, 1].

        side: the longer one of the middle slice; a neighbour of another size is brought to it. Along a series each
        slice is decoded once.
        """
        rows = self.rows[index].tolist()
        images = self._last = {
            row: self._last[row] if row in self._last else pad_to_square(to_unit(self.store.read(row)))
            for row in dict.fromkeys(rows)
        }
        side = images[rows[len(rows) // 2]].shape[0]
        stack: np.ndarray = cv2.merge([resize(images[row], side) for row in rows])
        return stack.reshape(side, side, len(rows))  # OpenCV drops a single channel's axis

    def fingerprint(self) -> str:
        """A word that changes when the slices, their order or their pixels do."""
        return self.store.fingerprint(self.rows.ravel())


def find_stacks(layout: Layout, split: str, neighbours: int, ids: list[str] | None = None) -> Stacks:
    """The stacks around some slices of a split ("train" or "test"), or around all that its store has.

    At the ends of a series the outermost slice stands for those beyond it; so does a slice itself where nobody knows
    its z. Slices that the store lacks, since they could not be read, are passed over: their neighbours are neighbours.
    Raises UserError for slices that the store lacks.
    """
    store = ImageStore(layout.store(split))
    ids = store.index["ID"].tolist() if ids is None else ids
    middle = store.rows(ids)
    if not neighbours:
        return Stacks(store, ids, middle[:, None])
    table = _series_table(layout.table(split), store)
    return Stacks(store, ids, neighbour_rows(table, len(store), neighbours)[middle])


def neighbour_rows(table: pd.DataFrame, n_rows: int, neighbours: int) -> np.ndarray:
    """For each row of an index, the rows of its stack: (n_rows, 2 * neighbours + 1).

    table: `row`, `SeriesInstanceUID`, `z_index`, in any order, of those slices whose place in a series is known.
    """
    ordered = table.sort_values(["SeriesInstanceUID", "z_index"])
    rows = ordered["row"].to_numpy()
    places = np.arange(len(rows))
    series = ordered.groupby("SeriesInstanceUID")["row"]
    first = places - series.cumcount().to_numpy()
    last = first + series.transform("size").to_numpy() - 1
    offsets = np.arange(-neighbours, neighbours + 1)
    stacks = np.repeat(np.arange(n_rows)[:, None], len(offsets), axis=1)
    stacks[rows] = rows[np.clip(places[:, None] + offsets, first[:, None], last[:, None])]
    return stacks


def _series_table(path: Path, store: ImageStore) -> pd.DataFrame:
    columns = ["ID", "SeriesInstanceUID", "z", "z_index"]
    table = read_table(path, columns, made_by="bin/preprocess.sh")[columns]
    known = store.index[["ID"]].assign(row=np.arange(len(store))).merge(table, on="ID", how="inner", validate="1:1")
    if len(known) < len(store):
        raise UserError(f"{path} lacks {len(store) - len(known)} slices of {store.folder}; run bin/preprocess.sh again")
    return known[known["z"].notna()]


def pad_to_square(image: np.ndarray) -> np.ndarray:
    """Centre (rows, columns) in a square of air: a head is never stretched."""
    rows, columns = image.shape
    side = max(rows, columns)
    if rows == columns:
        return image
    top, left = (side - rows) // 2, (side - columns) // 2
    padding = ((top, side - rows - top), (left, side - columns - left))
    return np.pad(image, padding)  # 0 is air: the lower end of STORED_RANGE


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """Bring a square (n, n) or (n, n, channels) to (side, side), averaging where it shrinks: a small bleed stays."""
    if image.shape[0] == side:
        return image
    method = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_LINEAR
    resized: np.ndarray = cv2.resize(image, (side, side), interpolation=method)
    return resized.reshape(side, side, *image.shape[2:])  # OpenCV drops a single channel's axis
