"""Slices as a network takes them, one by one: augmented for training, or as they are."""

from collections.abc import Iterator
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from src.classify.augment import Augmentation
from src.classify.stacks import Stacks, resize
from src.config import WindowJitterConf


class Sample(TypedDict):
    """One slice, or a batch of N with N in front of each shape. S: the slices of its stack, 1 without neighbours."""

    index: int  # of the slice in the dataset's ids
    image: torch.Tensor  # (S, H, W) float32, STORED_RANGE as [0, 1]
    target: torch.Tensor  # (6,) float32 of 0 and 1
    jitter: torch.Tensor  # (windows, 2) float32: HU added to each window's level, share added to its width


class TrainingSlices(Dataset[Sample]):
    """Augmented slices. What chance does to a slice depends on seed, epoch and slice alone, not on the worker.

    Indexed by (epoch, index), which EpochSampler gives. n_windows: how many windows each have their own jitter.
    """

    def __init__(
        self,
        stacks: Stacks,
        targets: np.ndarray,
        augmentation: Augmentation,
        jitter: WindowJitterConf,
        n_windows: int,
        seed: int,
    ) -> None:
        self.stacks, self.targets = stacks, targets
        self.augmentation, self.jitter, self.n_windows, self.seed = augmentation, jitter, n_windows, seed

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        chance = np.random.default_rng((self.seed, epoch, index))
        image = self.augmentation(self.stacks.read(index), seed=int(chance.integers(2**31)))
        jitter = chance.uniform(-1, 1, (self.n_windows, 2)) * (self.jitter.level, self.jitter.width)
        return {
            "index": index,
            "image": _channels_first(image),
            "target": torch.from_numpy(self.targets[index].astype(np.float32)),
            "jitter": torch.from_numpy(jitter.astype(np.float32)),
        }


class PlainSlices(Dataset[tuple[int, torch.Tensor]]):
    """Slices as they are, at the network's size: (index, (S, H, W) float32). For validation and prediction."""

    def __init__(self, stacks: Stacks, image_size: int) -> None:
        self.stacks, self.image_size = stacks, image_size

    def __len__(self) -> int:
        return len(self.stacks)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, _channels_first(resize(self.stacks.read(index), self.image_size))


def _channels_first(image: np.ndarray) -> torch.Tensor:
    """(H, W, S) -> (S, H, W)."""
    return torch.from_numpy(np.stack(cv2.split(image)) if image.shape[-1] > 1 else image[None, ..., 0])


class EpochSampler(Sampler[tuple[int, int]]):
    """Every slice of an epoch once, as (epoch, index), in an order that depends on seed and epoch alone.

    epoch, first: where the next iteration begins; what lies before `first` was seen by an earlier run.
    """

    def __init__(self, n_slices: int, seed: int) -> None:
        self.n_slices, self.seed, self.epoch, self.first = n_slices, seed, 1, 0

    def __len__(self) -> int:
        return self.n_slices - self.first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_slices)
        return ((self.epoch, int(index)) for index in order[self.first :])
