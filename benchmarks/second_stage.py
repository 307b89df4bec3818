"""What the second stage gains: the whole pipeline on a hard generated competition, judged out of fold.

    python -m benchmarks.second_stage --root FOLDER

The competition was fixed before anything was trained on it: PATIENTS, SLICES, SIZE and SEED below. One classifier, five
folds. Over its networks of epoch 3: a GRU and a transformer. Controls: a GRU that is trained and judged with each slice
at another one's place (`gru-shuffled`), the GRU trained in order and judged so (`gru read shuffled`), and one to which
each slice is a series by itself (`gru alone`). Every step goes on where it was; some two hours on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import machine
from src.classify.checkpoint import file_sha256, load_checkpoint
from src.classify.fit import fit
from src.classify.loop import make_accelerator
from src.config import SequenceConfig, load_config, load_sequence_config
from src.files.layout import Layout
from src.files.predictions import Origin, write_predictions
from src.sequence.checkpoint import over
from src.sequence.embedded import Embedded, read_embedded
from src.sequence.loop import make_series_loader, predict_series
from src.sequence.train import Sequencing

REPOSITORY = Path(__file__).parents[1]
PATIENTS, SLICES, SIZE, SEED = 500, 24, 256, 2019
EPOCHS, EMBED_EPOCH = (2, 3), 3
CLASSIFIER = "conf/demo/efficientnet-b2-hard.yaml"
SEQUENCES = [f"conf/demo/sequence/{name}.yaml" for name in ("gru", "gru-shuffled", "transformer")]


def run(*command: str, **environment: str) -> None:
    """Run a command of this repository."""
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)  # noqa: S603 - our own


class Controls:
    """What a sequence model predicts out of fold where the neighbours are not what they should be, into controls/."""

    def __init__(self, conf: Path, classifier: Path, folds: Sequence[int], layout: Layout) -> None:
        self._config, self._classifier = load_sequence_config(REPOSITORY / conf), load_config(REPOSITORY / classifier)
        self._folds, self._layout, self._made = folds, layout, Layout(layout.root / "controls")

    def read_shuffled(self) -> list[Path]:
        """By the networks that were trained in order, each slice at another one's place."""
        config = over(self._config, self._classifier)
        shuffled = config.model_copy(update={"name": "read-shuffled", "order": "shuffled"})
        tasks = [Sequencing(config, self._embedded(fold), self._layout) for fold in self._folds]
        return [self._predict(task, shuffled, self._embedded(task.fold)) for task in tasks]

    def alone(self) -> list[Path]:
        """By networks that were trained with each slice as a series by itself; as many slices a step as in series."""
        files = []
        for fold in self._folds:
            slices = self._embedded(fold).slices
            n_slices, n_series = len(slices.ids), len(slices.starts) - 1
            embedded = replace(self._embedded(fold), slices=replace(slices, starts=np.arange(n_slices + 1)))
            size = round(self._config.batch_size * n_slices / n_series)
            task = Sequencing(
                self._config.model_copy(update={"name": "alone", "batch_size": size}), embedded, self._made
            )
            fit(task)
            files.append(self._predict(task, task.config, embedded))
        return files

    def _embedded(self, fold: int) -> Embedded:
        return read_embedded(self._classifier, fold, EMBED_EPOCH, self._layout, "train")

    def _predict(self, task: Sequencing, config: SequenceConfig, embedded: Embedded) -> Path:
        """The fold's own slices by the network of a task, read as another conf says."""
        network, accelerator, unseen = task.build(fresh=False), make_accelerator("none"), embedded.unseen
        checkpoint = task.folder.checkpoint(task.config.epochs)
        load_checkpoint(checkpoint, network)
        loader = make_series_loader(config, embedded, unseen=True)
        probabilities = predict_series(accelerator, network, loader, len(unseen), config.name)[unseen]
        path = self._made.fold(config.name, task.fold).predictions("valid", task.config.epochs)
        by, of = file_sha256(checkpoint), embedded.embeddings.by
        origin = Origin(config.name, task.fold, task.config.epochs, by, "valid", of.slices, of.views)
        write_predictions(path, pd.Series(embedded.slices.ids)[unseen], probabilities, origin)
        return path


def main() -> None:
    """Read arguments, run the pipeline, print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_stage", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for all of it, made if missing")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="(default %(default)s)")
    parser.add_argument("--slices", type=int, default=SLICES, help="mean number per series (default %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="rows and columns (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the patients (default %(default)s)")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="(default %(default)s)")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="(default %(default)s)")
    parser.add_argument("--sequences", type=Path, nargs="+", default=SEQUENCES, help="the controls are of the first")
    args = parser.parse_args()
    print(machine(), flush=True)
    root, python = args.root.resolve(), sys.executable
    layout, made = Layout(root), root / "generated"
    if not made.exists():
        shutil.rmtree(root / "input", ignore_errors=True)
        what = ("--patients", str(args.patients), "--slices", str(args.slices), "--size", str(args.size))
        more = ("--difficulty", "hard", "--seed", str(SEED))
        run(python, "-m", "src.sample.make_competition", "--output", str(root / "input"), *what, *more)
        made.touch()
    sequences, folds = [Path(each) for each in args.sequences], " ".join(map(str, args.folds))
    confs = {"CONFS": str(args.classifier), "SEQUENCES": " ".join(map(str, sequences)), "FOLDS": folds}
    for script in ("preprocess", "train", "predict", "sequence"):
        run("sh", f"bin/{script}.sh", ICH_ROOT=str(root), **confs)

    classifier = Path(args.classifier).stem
    folders = [layout.fold(classifier, fold) for fold in args.folds]
    rivals = {"bag": [each.predictions("valid", epoch) for each in folders for epoch in EPOCHS]}
    rivals[f"epoch {EMBED_EPOCH}"] = [each.predictions("valid", EMBED_EPOCH) for each in folders]
    first, controls = sequences[0].stem, Controls(sequences[0], Path(args.classifier), args.folds, layout)
    rivals[f"{first} alone"], rivals[f"{first} read shuffled"] = controls.alone(), controls.read_shuffled()
    for sequence in sequences:
        found = [layout.fold(f"{classifier}+{sequence.stem}", fold).path for fold in args.folds]
        rivals[sequence.stem] = [path for each in found for path in each.glob("valid_epoch*.parquet")]
    named = [word for name, files in rivals.items() for word in ("--rival", name, *map(str, files))]
    compare = ("--root", str(root), "--resamples", str(args.resamples), "--smooth", "bag")
    run(python, "-m", "src.ensemble.compare", *compare, *named, "--output", str(root / "comparison.csv"))


if __name__ == "__main__":
    main()
