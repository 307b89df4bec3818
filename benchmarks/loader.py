"""A training sample, measured: store to augmented tensor, against DICOM and PNG with the same augmentations.

    python -m benchmarks.loader --head-ct FOLDER

FOLDER: the DICOM files of one head CT, copied to some hundred slices; without it, a generated one. Warm cache,
one core, except for the loaders.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pydicom
import torch
from torch.utils.data import DataLoader

from benchmarks.competition import TRAIN_SLICES
from benchmarks.head_ct import add_head_ct, copy_head_ct, find_head_ct, head_ct_name
from benchmarks.measure import alone, machine, table, take_turns
from benchmarks.preprocess import usual_way
from src.classify.augment import Augmentation
from src.classify.dataset import LabelledSlices, TrainingDataset
from src.classify.inputs import SliceInputs, square_unit
from src.classify.network import IMAGENET_MEAN, IMAGENET_STD, Windows
from src.config import Config, load_config
from src.ct.series import adjacent_slices
from src.ct.windows import apply_windows
from src.files.image_store import ImageStore
from src.labels import LABELS
from src.memory import keep_memory
from src.preprocess.create_dataset import create_dataset
from src.train.loader import EpochSampler, make_loader, start_worker

CONF = Path(__file__).parents[1] / "conf/se_resnext50_32x4d.yaml"


def training_slices(config: Config, store: ImageStore, table: pd.DataFrame) -> TrainingDataset:
    """The dataset that training reads, over all slices of a store. table: their `ID`, `SeriesInstanceUID` and `z`."""
    in_store = table.set_index("ID").loc[store.index["ID"]]
    series, z = pd.factorize(in_store["SeriesInstanceUID"])[0], in_store["z"].to_numpy(dtype=np.float64)
    inputs = SliceInputs(store, store.index["ID"].tolist(), adjacent_slices(series, z, config.neighbours))
    return TrainingDataset(LabelledSlices(inputs, np.zeros((len(z), len(LABELS)), dtype=np.uint8)), config)


def one_core(copies: pd.DataFrame, work: Path, rounds: int, image_size: int) -> None:
    """A sample, three ways, and the parts of ours."""
    pictures = work / "png"
    pictures.mkdir()
    paths = copies.set_index("ID")["path"][ImageStore(work / "store").index["ID"]].tolist()
    usual_way(paths, pictures)
    _, _, seconds = alone(_sample_seconds, copies, paths, work, rounds, image_size)
    dicom, png, *_ = seconds.values()
    table(
        f"A training sample of {image_size} x {image_size}, one core",
        ("what", "ms", "times the DICOM way", "times the PNG way"),
        [(name, 1000 * each / len(paths), each / dicom, each / png) for name, each in seconds.items()],
    )


def _sample_seconds(
    copies: pd.DataFrame, paths: list[str], work: Path, rounds: int, image_size: int
) -> dict[str, float]:
    """Seconds of all samples, by each way."""
    warnings.simplefilter("ignore")  # pydicom's, of ids that are no UIDs
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_memory()  # as in a loader's worker; the other ways gain from it too
    store = ImageStore(work / "store")
    settings = [f"image_size={image_size}"]
    config = load_config(CONF, settings)
    single, with_adjacent = (
        training_slices(load_config(CONF, [*settings, f"neighbours={n}"]), store, copies) for n in (0, 1)
    )
    augmentation, windows = Augmentation(config.augment, image_size), Windows(config.windows)
    mean, std = (np.array(each, dtype=np.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))

    def finish(views: np.ndarray, index: int) -> torch.Tensor:
        views = (augmentation(views, seed=index) - mean) / std
        return torch.from_numpy(np.ascontiguousarray(views.transpose(2, 0, 1)))

    def from_dicom(index: int) -> torch.Tensor:
        dataset = pydicom.dcmread(paths[index])
        hu = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        return finish(apply_windows(hu), index)

    def from_png(index: int) -> torch.Tensor:
        return finish(np.asarray(cv2.imread(str(work / f"png/{index}.png")), dtype=np.float32) / 255, index)

    def seen(index: int) -> torch.Tensor:
        sample = single[1, index]
        return windows(sample["image"][None], sample["jitter"][None])

    def read(index: int) -> np.ndarray:
        return square_unit(single.slices.inputs.read(index))

    images = [read(index) for index in range(len(store))]
    ways: dict[str, Callable[[int], object]] = {
        "DICOM by pydicom, three float windows, augmented, normalised": from_dicom,
        "three-window PNG, augmented, normalised": from_png,
        "from the store: TrainingDataset": lambda index: single[1, index],
        "... with both adjacent slices (2.5D)": lambda index: with_adjacent[1, index],
        "... and windowed, which the network does": seen,
        "reading alone": read,
        "augmenting alone": lambda index: single.augmentation(images[index], seed=index),
    }

    def run(way: Callable[[int], object]) -> None:
        for index in range(len(store)):
            way(index)

    return take_turns({name: partial(run, way) for name, way in ways.items()}, rounds)


def all_cores(copies: pd.DataFrame, work: Path, rounds: int, image_size: int) -> None:
    """What loaders deliver, by their number of workers."""
    config = load_config(CONF, [f"image_size={image_size}"])
    dataset = training_slices(config, ImageStore(work / "store"), copies)
    sampler = _Repeated(len(dataset), epochs=max(1, 1000 // len(dataset)))

    def load(workers: int, start: Callable[[int], None] | None) -> None:
        loader = DataLoader(
            dataset, batch_size=config.batch_size, sampler=sampler, num_workers=workers, worker_init_fn=start
        )
        for _ in loader:
            pass

    counts = sorted({1, 2, os.cpu_count() or 1})
    starts = {"": start_worker, " without keep_memory": None}
    candidates = {f"{n} workers{how}": partial(load, n, start) for n in counts for how, start in starts.items()}
    seconds = take_turns(candidates, rounds)
    table(
        "Loaders, their start included",
        ("what", "slices a second"),
        [(name, len(sampler) / each) for name, each in seconds.items()],
    )


class _Repeated(EpochSampler):
    """Several epochs in one iteration."""

    def __init__(self, n_slices: int, epochs: int) -> None:
        super().__init__(n_slices, seed=0)
        self.epochs = epochs

    def __len__(self) -> int:
        return self.n_items * self.epochs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for epoch in range(1, self.epochs + 1):
            self.epoch = epoch
            yield from super().__iter__()


def memory(copies: pd.DataFrame, work: Path, workers: int, slices: int) -> None:
    """The memory of workers at the competition's size: an index of as many rows, over the slices of the store."""
    store = ImageStore(work / "store")
    repeats = -(-slices // len(store))
    index = pd.concat([store.index] * repeats, ignore_index=True).iloc[:slices]
    store.index = index.assign(ID=[f"ID_{i:09x}" for i in range(slices)])
    series = pd.DataFrame({"ID": store.index["ID"], "SeriesInstanceUID": np.arange(slices) // 35, "z": 0.0})
    config = load_config(CONF, [f"workers={workers}"])
    dataset = training_slices(config, store, series)
    loader = make_loader(config, dataset, sampler=EpochSampler(slices, seed=0))
    before = _megabytes([os.getpid()])
    batches = iter(loader)
    for _ in range(30):
        next(batches)
    children = [child.pid for child in psutil.Process().children()]
    table(
        f"Memory over an index of {slices} slices (shared pages counted once)",
        ("what", "MB"),
        [
            ("the training process, without a network", before),
            (f"{workers} workers and their batches, in addition", _megabytes([os.getpid(), *children]) - before),
        ],
    )
    del batches


def _megabytes(processes: list[int]) -> int:
    return sum(psutil.Process(each).memory_full_info().pss for each in processes) // 2**20


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.split("\n")[0])
    add_head_ct(parser)
    parser.add_argument("--slices", type=int, default=112, help="copy it to so many slices (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the comparison (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=512, help="in pixels (default %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="whose memory is measured (default %(default)s)")
    parser.add_argument("--index", type=int, default=TRAIN_SLICES, help="slices of that index (default %(default)s)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, of ids that are no UIDs
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "images").mkdir()
        copies = copy_head_ct(find_head_ct(args.head_ct, work), work / "images", args.slices)
        create_dataset(copies, work / "store", engine="serial")
        print(f"{machine()}; {len(copies)} slices of {head_ct_name(args.head_ct)}, {args.rounds} rounds, medians")
        one_core(copies, work, args.rounds, args.image_size)
        all_cores(copies, work, args.rounds, args.image_size)
        memory(copies, work, args.workers, args.index)


if __name__ == "__main__":
    main()
