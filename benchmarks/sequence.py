"""The second stage at the competition's size, on random embeddings: memory, speed and disk space.

    python -m benchmarks.sequence

The memory is that of a process that trains for some steps and then predicts every series. It is compared with one that
keeps all embeddings in memory.
"""

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.competition import SLICES
from benchmarks.measure import alone, machine, table
from src.config import load_sequence_config
from src.files.embeddings import Embeddings, EmbeddingWriter, record
from src.files.layout import Layout
from src.files.provenance import Provenance
from src.labels import LABELS
from src.sequence.series import EmbeddedSlices, SlicesBySeries, make_series_loader, predict_series
from src.sequence.train import SequenceTask
from src.train.distributed import make_accelerator
from src.train.epoch import TrainingStep, train_epoch
from src.train.loader import EpochSampler
from src.train.optim import make_optimizer
from src.train.state import Position

CONFS = Path(__file__).parents[1] / "conf/sequence"
SERIES_LENGTH, GAP_MM = 35, 5.0
DIMENSIONS = {"se_resnext50_32x4d": 2048, "efficientnet-b2": 1408}
NETWORKS = 5  # of each


def write(path: Path, n_series: int, dimensions: int) -> None:
    """Write random embeddings, chunk by chunk."""
    provenance = Provenance(
        conf="cnn",
        fold=0,
        epoch=3,
        checkpoint="c",
        data_fingerprint="t",
        split="train",
        slices="s",
        tta="Identity",
    )
    rng, n_slices = np.random.default_rng(0), n_series * SERIES_LENGTH
    writer = EmbeddingWriter(path, provenance, n_slices, dimensions)
    writer.open_at(0)
    chunk = rng.normal(size=(SERIES_LENGTH * 100, dimensions)).astype(np.float32)
    for first in range(0, n_slices, len(chunk)):
        some = chunk[: n_slices - first]
        writer.add(some[:, : len(LABELS)], some)
    writer.save()
    writer.close()


class InMemory:
    """All embeddings in memory, as a user would load them: in place of `Embeddings`."""

    def __init__(self, path: Path) -> None:
        file = Embeddings(path)
        self.dimensions, self.provenance = file.dimensions, file.provenance
        self._logits, self._embeddings = file.read(0, len(file))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Embeddings.read`."""
        return self._logits[start:stop], self._embeddings[start:stop]


def embedded(path: str, n_series: int, in_memory: bool) -> EmbeddedSlices:
    """The series of a file, of which one in eleven is held out."""
    n_slices = n_series * SERIES_LENGTH
    slices = SlicesBySeries(
        SimpleNamespace(ids=[f"ID_{i:09x}" for i in range(n_slices)]),  # type: ignore[arg-type]
        np.tile(np.arange(SERIES_LENGTH) * GAP_MM, n_series),
        np.arange(n_series + 1) * SERIES_LENGTH,
        (np.random.default_rng(0).random((n_slices, len(LABELS))) < 0.1).astype(np.uint8),
        np.repeat(np.arange(n_series) % 11, SERIES_LENGTH),
    )
    return EmbeddedSlices(slices, InMemory(Path(path)) if in_memory else Embeddings(Path(path)), 0)  # type: ignore[arg-type]


def train_and_predict(path: str, n_series: int, in_memory: bool, conf: str, steps: int) -> dict[str, Any]:
    """Series per second in training and in prediction."""
    torch.set_num_threads(2)
    config, every = load_sequence_config(CONFS / f"{conf}.yaml"), embedded(path, n_series, in_memory)
    accelerator = make_accelerator("none")
    task = SequenceTask(config, every, Layout(Path()))
    own, position = task.build(fresh=True), Position()
    network, optimizer, loader = accelerator.prepare(
        own, make_optimizer(config.optimizer, own), task.training_loader(EpochSampler(task.n_items, 0))
    )
    step = TrainingStep(accelerator, network, optimizer, task.forward)
    batches: Any = (batch for batch, _ in zip(loader, range(steps), strict=False))
    train_epoch(step, batches, position, ids=task.ids, desc="")
    training = position.slices / SERIES_LENGTH / position.seconds
    started, predicted = time.perf_counter(), 0
    for fold in range(11):  # every series once
        of_fold = EmbeddedSlices(every.slices, every.embeddings, fold)
        held_out = accelerator.prepare(make_series_loader(config, of_fold, unseen=True))
        found = predict_series(accelerator, network, held_out, len(task.ids), "")
        predicted += int(np.isfinite(found[:, 0]).sum()) // SERIES_LENGTH
    return {"training": training, "predicting": predicted / (time.perf_counter() - started)}


def main() -> None:
    """Read arguments, measure, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequence", description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=[500, 2000, 22_000], help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of training (default %(default)s)")
    parser.add_argument("--confs", nargs="+", default=["gru", "transformer"], help="of conf/sequence/")
    args = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}")
    rows: list[tuple[Any, ...]] = []
    for dimensions in (None, 256):
        sizes = [NETWORKS * SLICES * record(dimensions or each).itemsize / 1e9 for each in DIMENSIONS.values()]
        rows.append((dimensions or "all", *sizes, sum(sizes)))
    title = f"Disk for embeddings of {SLICES} slices by {NETWORKS} networks of each classifier, GB"
    table(title, ("numbers a slice", *DIMENSIONS, "both"), rows)

    rows, dimensions = [], DIMENSIONS["efficientnet-b2"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "e.npy")
        for n_series in args.series:
            write(Path(path), n_series, dimensions)
            megabytes = Path(path).stat().st_size / 1e6
            for conf in args.confs:
                for in_memory in (False, True):
                    _, peak, speed = alone(train_and_predict, path, n_series, in_memory, conf, args.steps)
                    where = "in memory" if in_memory else "from disk"
                    rows.append((n_series, round(megabytes), conf, where, peak, speed["training"], speed["predicting"]))
    columns = ("series", "file, MB", "conf", "embeddings", "peak MB", "series/s, training", "series/s, predicting")
    table(f"Training and prediction, {SERIES_LENGTH} slices a series, {dimensions} numbers a slice", columns, rows)


if __name__ == "__main__":
    main()
