"""The slices that a fold trains on and is validated on, and the datasets that networks read them from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from src.classify.augment import Augmentation
from src.classify.inputs import SliceInputs, channels_first, find_inputs, network_input, square_unit
from src.config import Config
from src.errors import UserError, first_few
from src.files.folds import patient_hashes, read_fold_table
from src.files.layout import Layout
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class LabelledSlices:
    """N slices as inputs of a network, and their targets (N, 6) uint8.

    patients: (N,) of `patient_hashes`; empty where they are unknown.
    """

    inputs: SliceInputs
    targets: np.ndarray
    patients: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    @property
    def ids(self) -> list[str]:
        """The slices' ids, (N)."""
        return self.inputs.ids

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, chosen: np.ndarray) -> "LabelledSlices":
        """Some of them, by a mask or by indices."""
        patients = self.patients[chosen] if len(self.patients) else self.patients
        return LabelledSlices(self.inputs.take(chosen), self.targets[chosen], patients)

    def fingerprint(self) -> str:
        """A hash of the slices, their order, pixels and targets."""
        digest = hashlib.blake2b(self.inputs.fingerprint().encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.targets, dtype=np.uint8).data)
        return digest.hexdigest()


def read_fold_split(layout: Layout, fold: int, neighbours: int = 0) -> tuple[LabelledSlices, LabelledSlices]:
    """(training slices, validation slices) of a fold; neighbours: adjacent slices on either side of each.

    Raises UserError as `read_folds`.
    """
    slices, in_fold = read_folds(layout, [fold], neighbours)
    return slices.take(in_fold != fold), slices.take(in_fold == fold)


def read_folds(layout: Layout, folds: Sequence[int], neighbours: int = 0) -> tuple[LabelledSlices, np.ndarray]:
    """All training slices and the fold of each, (N,).

    Raises UserError as `read_fold_table`, where tables disagree, the store lacks slices or has some that are in no
    fold, or one of `folds` does not exist.
    """
    table = read_fold_table(layout)
    labels = read_table(layout.table("train"), ("ID", *LABELS), step="preprocess")
    existing = sorted(table["fold"].unique())
    for fold in folds:
        if fold not in existing:
            raise UserError(f"there is no fold {fold}; {layout.folds} has {', '.join(map(str, existing))}")
    joined = table.merge(labels[["ID", *LABELS]], on="ID", how="left", validate="one_to_one")
    unknown = joined.loc[joined[LABELS[0]].isna(), "ID"]
    if len(unknown):
        raise UserError(
            f"{layout.folds} has {len(unknown)} slices that {layout.table('train')} lacks: {first_few(unknown)}",
            step="preprocess",
        )
    inputs = find_inputs(layout, "train", neighbours, joined["ID"].tolist())
    left_out = pd.Index(inputs.store.index["ID"]).difference(pd.Index(joined["ID"]))
    if len(left_out):
        raise UserError(
            f"{len(left_out)} slices of {layout.store('train')} are in no fold: {first_few(left_out)}; delete "
            f"{layout.folds}",
            step="preprocess",
        )
    targets, patients = joined[list(LABELS)].to_numpy(dtype=np.uint8), patient_hashes(joined["PatientID"])
    return LabelledSlices(inputs, targets, patients), joined["fold"].to_numpy()


class Sample(TypedDict):
    """One slice; a batch of N has N in front of each shape. S: the slice and its adjacent ones, 1 without these."""

    index: int  # of the slice in the dataset's ids
    image: torch.Tensor  # (S, H, W) float32, HU_RANGE as [0, 1]
    target: torch.Tensor  # (6,) float32 of 0 and 1
    jitter: torch.Tensor  # (windows, 2) float32: HU added to each window's level, fraction added to its width


class TrainingDataset(Dataset[Sample]):
    """Augmented slices. The randomness of a slice depends on seed, epoch and slice alone, not on the worker.

    Indexed by (epoch, index), which EpochSampler gives.
    """

    def __init__(self, slices: LabelledSlices, config: Config) -> None:
        self.slices, self.config = slices, config
        self.augmentation = Augmentation(config.augment, config.image_size)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        config = self.config
        random = np.random.default_rng((config.seed, epoch, index))
        image = self.augmentation(square_unit(self.slices.inputs.read(index)), seed=int(random.integers(2**31)))
        jitter = random.uniform(-1, 1, (len(config.windows), 2))
        jitter *= (config.window_jitter.level, config.window_jitter.width)
        return {
            "index": index,
            "image": torch.from_numpy(channels_first(image)),
            "target": torch.from_numpy(self.slices.targets[index].astype(np.float32)),
            "jitter": torch.from_numpy(jitter.astype(np.float32)),
        }


class EvalDataset(Dataset[tuple[int, torch.Tensor]]):
    """Slices without augmentation: (index, (S, H, W) float32). For validation, prediction and embedding."""

    def __init__(self, inputs: SliceInputs, config: Config) -> None:
        self.inputs, self.config = inputs, config

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.from_numpy(network_input(self.inputs.read(index), self.config))
