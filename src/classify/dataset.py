"""Slices as a network takes them: read from the image store, padded to a square, augmented or resized."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from src.classify.augment import Augmentation
from src.config import WindowJitterConf
from src.ct.hounsfield import to_unit
from src.ct.windows import THREE_WINDOWS
from src.files.images import ImageStore


class Sample(TypedDict):
    """One slice, or a batch of N with N in front of each shape."""

    index: int  # of the slice in the dataset's ids
    image: torch.Tensor  # (1, H, W) float32, STORED_RANGE as [0, 1]
    target: torch.Tensor  # (6,) float32 of 0 and 1
    jitter: torch.Tensor  # (3, 2) float32: HU added to each window's level, share added to its width


def pad_to_square(image: np.ndarray) -> np.ndarray:
    """Centre (rows, columns) in a square of air: a head is never stretched."""
    rows, columns = image.shape
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    padding = ((top, side - rows - top), (left, side - columns - left))
    return np.pad(image, padding)  # 0 is air: the lower end of STORED_RANGE


class TrainingSlices(Dataset[Sample]):
    """Augmented slices. What chance does to a slice depends on seed, epoch and slice alone, not on the worker.

    Indexed by (epoch, index), which EpochSampler gives.
    """

    def __init__(
        self,
        folder: Path,
        ids: list[str],
        targets: np.ndarray,
        augmentation: Augmentation,
        jitter: WindowJitterConf,
        seed: int,
    ) -> None:
        self.store, self.ids, self.targets = ImageStore(folder), ids, targets.astype(np.float32)
        self.augmentation, self.jitter, self.seed = augmentation, jitter, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        chance = np.random.default_rng((self.seed, epoch, index))
        image = pad_to_square(to_unit(self.store.hounsfield(self.ids[index])))
        image = self.augmentation(image, seed=int(chance.integers(2**31)))
        jitter = chance.uniform(-1, 1, (len(THREE_WINDOWS), 2)) * (self.jitter.level, self.jitter.width)
        return {
            "index": index,
            "image": torch.from_numpy(np.ascontiguousarray(image))[None],
            "target": torch.from_numpy(self.targets[index]),
            "jitter": torch.from_numpy(jitter.astype(np.float32)),
        }


class PlainSlices(Dataset[tuple[int, torch.Tensor]]):
    """Slices as they are, at the network's size: (index, (1, H, W) float32). For validation and prediction."""

    def __init__(self, folder: Path, ids: list[str], image_size: int) -> None:
        self.store, self.ids, self.image_size = ImageStore(folder), ids, image_size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        image = pad_to_square(to_unit(self.store.hounsfield(self.ids[index])))
        if image.shape[0] != self.image_size:
            shrinks = image.shape[0] > self.image_size
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = cv2.resize(image, (self.image_size, self.image_size), interpolation=method)
        return index, torch.from_numpy(image)[None]


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
