"""The slices of a split, series by series: in what order they are embedded, and what a sequence model reads of them."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from src.classify.split import read_folds
from src.classify.stacks import Stacks, find_stacks
from src.ct.geometry import slice_gaps
from src.errors import UserError, first_few
from src.files.embeddings import Embeddings
from src.files.layout import Layout
from src.files.places import read_places
from src.labels import LABELS

NO_FOLD = -1
PLACES = 5  # numbers that say where a slice lies: see `places_along_z`


@dataclass(frozen=True)
class InSeries:
    """N slices of S series, each series in one piece, along z.

    stacks: what a classifier sees of them. z: (N,) mm along the normal, NaN where nobody knows: such a slice is a
    series by itself. starts: (S + 1,), where each series begins. targets: (N, 6) of 0 and 1; folds: (N,), NO_FOLD for a
    test set.
    """

    stacks: Stacks
    z: np.ndarray
    starts: np.ndarray
    targets: np.ndarray
    folds: np.ndarray

    @property
    def ids(self) -> list[str]:
        """The slices' ids, (N,)."""
        return self.stacks.ids


def read_in_series(layout: Layout, split: str, neighbours: int = 0) -> InSeries:
    """All slices of a split ("train" or "test") that the image store has, in the order in which they are embedded.

    Raises UserError as `read_folds`, and for a series that is in several folds.
    """
    if split == "train":
        slices, folds = read_folds(layout, [], neighbours)
        stacks, targets = slices.stacks, slices.targets
    else:
        stacks = find_stacks(layout, split, neighbours)
        targets, folds = np.zeros((len(stacks), len(LABELS)), dtype=np.uint8), np.full(len(stacks), NO_FOLD)
    places = read_places(layout.table(split), pd.Index(stacks.ids))
    order, starts = places.in_series_order()
    found = InSeries(stacks.take(order), places.z[order], starts, targets[order], folds[order])
    split_up = np.flatnonzero(np.repeat(found.folds[starts[:-1]], np.diff(starts)) != found.folds)
    if len(split_up):
        raise UserError(
            f"{layout.folds} has series in several folds, with {first_few(found.ids[i] for i in split_up)}; a second "
            "stage needs folds that leave patients in one piece: run bin/preprocess.sh again"
        )
    return found


def places_along_z(z: np.ndarray) -> np.ndarray:
    """Where the T slices of a series lie, for a network: z (T,) mm, rising -> (T, 5) float32.

    Relative place from -1, the first, to 1; logarithms of 1 + millimetres from the first, to the last, from the
    previous and to the next slice. Logarithms, since gaps of half a millimetre and of ten both occur.
    """
    span = z[-1] - z[0]
    relative = 2 * (z - z[0]) / span - 1 if span > 0 else np.zeros(len(z))
    gaps = slice_gaps(z)
    places = np.stack([relative, *np.log1p([z - z[0], z[-1] - z, [0, *gaps], [*gaps, 0]])], axis=1)
    return places.astype(np.float32)


class Series(TypedDict):
    """One series of T slices."""

    index: torch.Tensor  # (T,) of the slices in InSeries.ids
    embedding: torch.Tensor  # (T, D) float32
    logits: torch.Tensor  # (T, 6) float32, the classifier's
    places: torch.Tensor  # (T, 5) float32: see `places_along_z`
    z: torch.Tensor  # (T,) float32, mm from the first slice
    target: torch.Tensor  # (T, 6) float32 of 0 and 1


class Batch(TypedDict):
    """B series, padded with zeros to T slices each, of which n in all are real."""

    mask: torch.Tensor  # (B, T) bool: True for real slices
    embedding: torch.Tensor  # (B, T, D)
    logits: torch.Tensor  # (B, T, 6)
    places: torch.Tensor  # (B, T, 5)
    z: torch.Tensor  # (B, T)
    index: torch.Tensor  # (n,) of the real slices, in the order that a mask takes them in
    target: torch.Tensor  # (n, 6)


class SeriesDataset(Dataset[Series]):
    """Series by their embeddings, read from disk when they are asked for.

    chosen: (K,) which series of `slices`. shuffled: each slice lies at another one's place, by chance that depends on
    seed, epoch and series alone: the control of an experiment. Indexed by (epoch, k), which EpochSampler gives, or k.
    """

    def __init__(
        self, slices: InSeries, embeddings: Embeddings, chosen: np.ndarray, *, shuffled: bool = False, seed: int = 0
    ) -> None:
        self.slices, self.embeddings, self.chosen, self.shuffled, self.seed = slices, embeddings, chosen, shuffled, seed

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, place: int | tuple[int, int]) -> Series:
        epoch, k = place if isinstance(place, tuple) else (0, place)
        series = int(self.chosen[k])
        start, stop = self.slices.starts[series : series + 2]
        order = np.arange(stop - start)
        if self.shuffled:
            np.random.default_rng((self.seed, epoch, series)).shuffle(order)
        logits, embedding = self.embeddings.read(start, stop)
        z = np.nan_to_num(self.slices.z[start:stop])  # a slice whose z is unknown is alone
        return {
            "index": torch.from_numpy(start + order),
            "embedding": torch.from_numpy(embedding[order]),
            "logits": torch.from_numpy(logits[order]),
            "places": torch.from_numpy(places_along_z(z)),
            "z": torch.from_numpy((z - z[0]).astype(np.float32)),
            "target": torch.from_numpy(self.slices.targets[start + order].astype(np.float32)),
        }


def collate(batch: list[Series]) -> Batch:
    """Pad series to the longest of them."""

    def padded(each: list[torch.Tensor]) -> torch.Tensor:
        return pad_sequence(each, batch_first=True)

    return {
        "mask": padded([torch.ones(len(series["index"]), dtype=torch.bool) for series in batch]),
        "embedding": padded([series["embedding"] for series in batch]),
        "logits": padded([series["logits"] for series in batch]),
        "places": padded([series["places"] for series in batch]),
        "z": padded([series["z"] for series in batch]),
        "index": torch.cat([series["index"] for series in batch]),
        "target": torch.cat([series["target"] for series in batch]),
    }
