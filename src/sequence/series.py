"""Slices in series, with their embeddings: what a sequence model reads, in batches, and what it predicts of them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from src.classify.dataset import read_folds
from src.classify.inputs import SliceInputs, find_inputs
from src.config import Config, SequenceConfig
from src.ct.series import order_by_series, slice_gaps
from src.errors import UserError, first_few
from src.files.embeddings import Embeddings
from src.files.layout import Layout
from src.files.slice_positions import read_slice_positions
from src.labels import LABELS
from src.progress import progress
from src.train.loader import make_loader

POSITION_FEATURES = 5  # numbers that say where a slice lies: see `position_features`


@dataclass(frozen=True)
class SlicesBySeries:
    """N slices of S series, series by series, each along z: the order in which they are embedded.

    z: (N,) mm along the normal, NaN where it is unknown; such a slice is a series by itself. starts: (S + 1,), where
    each series begins. targets: (N, 6) of 0 and 1 and folds: (N,), None for a test set.
    """

    inputs: SliceInputs
    z: np.ndarray
    starts: np.ndarray
    targets: np.ndarray | None = None
    folds: np.ndarray | None = None

    @property
    def ids(self) -> list[str]:
        """The slices' ids, (N,)."""
        return self.inputs.ids


def read_slices_by_series(layout: Layout, split: str, neighbours: int = 0) -> SlicesBySeries:
    """All slices of a split ("train" or "test") that the image store has.

    Raises UserError as `read_folds`, and for a series that is in several folds.
    """
    if split == "train":
        slices, folds = read_folds(layout, [], neighbours)
        inputs = slices.inputs
    else:
        inputs = find_inputs(layout, split, neighbours)
    positions = read_slice_positions(layout.table(split), pd.Index(inputs.ids))
    order, starts = order_by_series(positions.series, positions.z)
    if split != "train":
        return SlicesBySeries(inputs.take(order), positions.z[order], starts)
    found = SlicesBySeries(inputs.take(order), positions.z[order], starts, slices.targets[order], folds[order])
    fold_of_series = np.repeat(folds[order][starts[:-1]], np.diff(starts))
    divided = np.flatnonzero(fold_of_series != folds[order])
    if len(divided):
        raise UserError(
            f"{layout.folds} has series in several folds, with {first_few(found.ids[i] for i in divided)}; a second "
            "stage needs folds that do not split patients",
            step="preprocess",
        )
    return found


def position_features(z: np.ndarray) -> np.ndarray:
    """Where the T slices of a series lie, for a network: z (T,) mm, rising -> (T, 5) float32.

    The relative position from -1, the first, to 1; the logarithms of 1 + the millimetres from the first slice, to the
    last, from the previous and to the next. Logarithms, since gaps of half a millimetre and of ten both occur.
    """
    span = z[-1] - z[0]
    relative = 2 * (z - z[0]) / span - 1 if span > 0 else np.zeros(len(z))
    gaps = slice_gaps(z)
    features = np.stack([relative, *np.log1p([z - z[0], z[-1] - z, [0, *gaps], [*gaps, 0]])], axis=1)
    return features.astype(np.float32)


class SeriesSample(TypedDict):
    """One series of T slices."""

    embedding: torch.Tensor  # (T, D) float32
    logits: torch.Tensor  # (T, 6) float32, the classifier's
    positions: torch.Tensor  # (T, 5) float32: see `position_features`
    z: torch.Tensor  # (T,) float32, mm from the first slice
    index: torch.Tensor  # (T,) of the slices in SlicesBySeries.ids
    target: NotRequired[torch.Tensor]  # (T, 6) float32 of 0 and 1


class SeriesBatch(TypedDict):
    """B series, padded with zeros to T slices each, of which n in all are real."""

    embedding: torch.Tensor  # (B, T, D)
    logits: torch.Tensor  # (B, T, 6)
    positions: torch.Tensor  # (B, T, 5)
    z: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) bool: True for real slices
    index: torch.Tensor  # (n,) of the real slices, in the order in which a mask takes them
    target: NotRequired[torch.Tensor]  # (n, 6)


def series_sample(embedding: np.ndarray, logits: np.ndarray, z: np.ndarray, index: np.ndarray) -> SeriesSample:
    """A series of T slices: embedding (T, D), logits (T, 6), z (T,) mm and rising, or NaN for a single slice."""
    z = np.nan_to_num(z)
    return {
        "embedding": torch.from_numpy(embedding),
        "logits": torch.from_numpy(logits),
        "positions": torch.from_numpy(position_features(z)),
        "z": torch.from_numpy((z - z[0]).astype(np.float32)),
        "index": torch.from_numpy(index),
    }


class SeriesDataset(Dataset[SeriesSample]):
    """Series by their embeddings, read from disk when they are needed.

    chosen: (K,) which series of `slices`. shuffled: the control of an experiment, in which each slice lies at the
    position of another, by randomness that depends on seed, epoch and series alone. Indexed by (epoch, k), which
    EpochSampler gives, or by k.
    """

    def __init__(
        self,
        slices: SlicesBySeries,
        embeddings: Embeddings,
        chosen: np.ndarray,
        *,
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        self.slices, self.embeddings, self.chosen, self.shuffled, self.seed = slices, embeddings, chosen, shuffled, seed

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int | tuple[int, int]) -> SeriesSample:
        epoch, k = item if isinstance(item, tuple) else (0, item)
        series = int(self.chosen[k])
        start, stop = self.slices.starts[series : series + 2]
        order = np.arange(stop - start)
        if self.shuffled:
            np.random.default_rng((self.seed, epoch, series)).shuffle(order)
        logits, embedding = self.embeddings.read(start, stop)
        sample = series_sample(embedding[order], logits[order], self.slices.z[start:stop], start + order)
        if self.slices.targets is not None:
            sample["target"] = torch.from_numpy(self.slices.targets[start + order].astype(np.float32))
        return sample


def collate(batch: list[SeriesSample]) -> SeriesBatch:
    """Pad series to the longest of them."""

    def padded(each: list[torch.Tensor]) -> torch.Tensor:
        return pad_sequence(each, batch_first=True)

    collated: SeriesBatch = {
        "embedding": padded([series["embedding"] for series in batch]),
        "logits": padded([series["logits"] for series in batch]),
        "positions": padded([series["positions"] for series in batch]),
        "z": padded([series["z"] for series in batch]),
        "mask": padded([torch.ones(len(series["index"]), dtype=torch.bool) for series in batch]),
        "index": torch.cat([series["index"] for series in batch]),
    }
    if "target" in batch[0]:
        collated["target"] = torch.cat([series["target"] for series in batch])
    return collated


@dataclass(frozen=True)
class EmbeddedSlices:
    """The slices of a split in series, and their embeddings by the network that did not see `fold`."""

    slices: SlicesBySeries
    embeddings: Embeddings
    fold: int

    @property
    def unseen(self) -> np.ndarray:
        """Which slices the network did not see, (N,) bool: those of its fold, and all of a test set."""
        folds = self.slices.folds
        return np.ones(len(self.slices.z), dtype=bool) if folds is None else folds == self.fold

    def series(self, *, unseen: bool) -> np.ndarray:
        """Which series the network did not see, or those that it was trained on: (K,) indices."""
        return np.flatnonzero(self.unseen[self.slices.starts[:-1]] == unseen)

    def fingerprint(self) -> str:
        """A hash of the embeddings' provenance, and of the slices' positions, targets and folds."""
        digest = hashlib.blake2b(json.dumps(self.embeddings.provenance.record()).encode(), digest_size=16)
        for each in (self.slices.z, self.slices.starts, self.slices.targets, self.slices.folds):
            if each is not None:
                digest.update(np.ascontiguousarray(each).data)
        return digest.hexdigest()


def read_embedded_slices(classifier: Config, fold: int, epoch: int, layout: Layout, split: str) -> EmbeddedSlices:
    """Embeddings of a split ("train" or "test") by a classifier's network of one fold and epoch.

    Raises UserError where they are missing, of another fold, of other slices than there are now, or by a network that
    was trained on other slices than the fold leaves it: it may have seen the held-out ones.
    """
    embeddings = Embeddings(layout.fold(classifier.name, fold).embeddings(split, epoch))
    provenance, path = embeddings.provenance, embeddings.path
    expected = {"conf": classifier.name, "fold": fold, "epoch": epoch, "split": split}
    for key, value in expected.items():
        if getattr(provenance, key) != value:
            found = getattr(provenance, key)
            raise UserError(f"{path} is of {key} {found}, expected {value}; delete it", step="sequence")
    slices = read_slices_by_series(layout, split, classifier.neighbours)
    if provenance.slices != slices.inputs.fingerprint() or len(embeddings) != len(slices.ids):
        raise UserError(f"{path} is of other slices than {layout.store(split)} has now", step="sequence")
    labelled, in_fold = read_folds(layout, [fold], classifier.neighbours)
    if provenance.data_fingerprint != labelled.take(in_fold != fold).fingerprint():
        raise UserError(
            f"{path} is by a network that was trained on other slices, folds or labels than fold {fold} leaves it now, "
            "so that it may have seen held-out slices; train the classifier again, then the second stage",
            step="train",
        )
    return EmbeddedSlices(slices, embeddings, fold)


def make_series_loader(config: SequenceConfig, embedded: EmbeddedSlices, *, unseen: bool, **more: Any) -> DataLoader:
    """Batches of the series that the classifier did not see, or of the others. more: further arguments of torch's."""
    chosen, shuffled = embedded.series(unseen=unseen), config.order == "shuffled"
    dataset = SeriesDataset(embedded.slices, embedded.embeddings, chosen, shuffled=shuffled, seed=config.seed)
    return make_loader(config, dataset, collate_fn=collate, **more)


def batch_logits(network: nn.Module, batch: SeriesBatch) -> torch.Tensor:
    """A sequence network's logits of the n real slices of a batch: (n, 6)."""
    logits: torch.Tensor = network(batch["embedding"], batch["logits"], batch["positions"], batch["z"], batch["mask"])
    return logits[batch["mask"]]


@torch.inference_mode()
def predict_series(
    accelerator: Accelerator, network: nn.Module, loader: DataLoader, n_slices: int, desc: str
) -> np.ndarray:
    """A sequence model's probabilities of the slices of the loader's series: (n_slices, 6) float32, NaN for others.

    n_slices: that a batch's "index" counts. Raises UserError where a probability is not finite.
    """
    network.eval()
    probabilities = np.full((n_slices, len(LABELS)), np.nan, dtype=np.float32)
    found = []
    for batch in progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process):
        predicted = batch_logits(network, batch).float().sigmoid()
        if not predicted.isfinite().all():
            raise UserError(
                f"{desc}: some predictions are not finite; the network has diverged: train it with a lower lr"
            )
        found.append((batch["index"].cpu().numpy(), predicted.cpu().numpy()))
    # a last batch is filled up for all processes with series that come twice, and get the same predictions
    for index, values in gather_object(found):
        probabilities[index] = values
    return probabilities
