"""What the second stage gains: the whole pipeline on a hard generated competition, scored out of fold.

    python -m benchmarks.second_stage --root FOLDER

The competition was fixed before anything was trained on it: PATIENTS, SLICES, SIZE and SEED below. One classifier, five
folds. Over its networks of epoch 3: a GRU and a transformer. Controls: a GRU that is trained and scored with each slice
at the position of another (`gru-shuffled`), the GRU that is trained in order and scored so (`gru read shuffled`), and
one for which each slice is a series by itself (`gru alone`). Every step goes on where it stopped; the whole takes about
two hours on two cores.
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
from src.config import SequenceConfig, load_config, load_sequence_config
from src.errors import UserError, show_log
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.files.run import Run
from src.sequence.checkpoint import over_classifier
from src.sequence.series import EmbeddedSlices, make_series_loader, predict_series, read_embedded_slices
from src.sequence.train import SequenceTask
from src.train.checkpoint import load_checkpoint
from src.train.distributed import make_accelerator
from src.train.trainer import fit

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
    """Out-of-fold predictions of a sequence model that does not see a slice's true adjacent slices, in controls/."""

    def __init__(self, conf: Path, classifier: Path, folds: Sequence[int], layout: Layout) -> None:
        self._config, self._classifier = load_sequence_config(REPOSITORY / conf), load_config(REPOSITORY / classifier)
        self._folds, self._layout, self._output = folds, layout, Layout(layout.root / "controls")

    def read_shuffled(self) -> list[Path]:
        """By the networks that were trained in order, with each slice at the position of another."""
        config = over_classifier(self._config, self._classifier)
        shuffled = config.model_copy(update={"name": "read-shuffled", "order": "shuffled"})
        tasks = [SequenceTask(config, self._embedded(fold), self._layout) for fold in self._folds]
        return [self._predict(task, shuffled, self._embedded(task.fold)) for task in tasks]

    def alone(self) -> list[Path]:
        """By networks for which each slice is a series by itself; a step has as many slices as with whole series."""
        files = []
        for fold in self._folds:
            slices = self._embedded(fold).slices
            n_slices, n_series = len(slices.ids), len(slices.starts) - 1
            embedded = replace(self._embedded(fold), slices=replace(slices, starts=np.arange(n_slices + 1)))
            size = round(self._config.batch_size * n_slices / n_series)
            task = SequenceTask(
                self._config.model_copy(update={"name": "alone", "batch_size": size}), embedded, self._output
            )
            fit(task)
            files.append(self._predict(task, task.config, embedded))
        return files

    def _embedded(self, fold: int) -> EmbeddedSlices:
        return read_embedded_slices(self._classifier, fold, EMBED_EPOCH, self._layout, "train")

    def _predict(self, task: SequenceTask, config: SequenceConfig, embedded: EmbeddedSlices) -> Path:
        """Predict a fold's slices by the network of a task, which reads them as another conf says."""
        network, accelerator = task.build(fresh=False), make_accelerator(config.precision)
        checkpoint, unseen = task.folder.checkpoint(task.config.epochs), embedded.unseen
        load_checkpoint(checkpoint, network)
        loader = accelerator.prepare(make_series_loader(config, embedded, unseen=True))
        model = accelerator.prepare_model(network, evaluation_mode=True)
        probabilities = predict_series(accelerator, model, loader, len(unseen), config.name)[unseen]
        slices, classifier = embedded.slices.inputs.take(unseen), embedded.embeddings.provenance
        provenance = Provenance(
            conf=config.name,
            fold=task.fold,
            epoch=task.config.epochs,
            checkpoint=file_sha256(checkpoint),
            split="valid",
            slices=slices.fingerprint(),
            tta=classifier.tta,
            classifier=classifier.conf,
            classifier_epoch=classifier.epoch,
            classifier_checkpoint=classifier.checkpoint,
        )
        path = self._output.fold(config.name, task.fold).predictions("valid", task.config.epochs)
        write_predictions(path, pd.Series(slices.ids), probabilities, provenance)
        return path


def out_of_fold_files(run: Run, members: str) -> list[Path]:
    """All out-of-fold files of a run. Raises UserError where some are missing."""
    files, expected = run.prediction_files("valid", members)
    if len(files) < expected:
        raise UserError(f"{run.layout.root / 'model'} has {len(files)} of {expected} out-of-fold prediction files")
    return files


def main() -> None:
    """Read arguments, run the pipeline, print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_stage", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="(default %(default)s)")
    parser.add_argument("--slices", type=int, default=SLICES, help="mean number per series (default %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="rows and columns (default %(default)s)")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="(default %(default)s)")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="(default %(default)s)")
    parser.add_argument(
        "--sequences", type=Path, nargs="+", default=SEQUENCES, help="sequence models; controls are made of the first"
    )
    args = parser.parse_args()
    show_log()
    print(machine(), flush=True)
    root, python = args.root.resolve(), sys.executable
    layout, made = Layout(root), root / "generated"
    if not made.exists():
        shutil.rmtree(root / "input", ignore_errors=True)
        what = ("--patients", str(args.patients), "--slices", str(args.slices), "--size", str(args.size))
        more = ("--difficulty", "hard", "--seed", str(SEED))
        run(python, "-m", "src.synthetic.make_competition", "--output", str(root / "input"), *what, *more)
        made.touch()
    sequences, folds = [Path(each) for each in args.sequences], " ".join(map(str, args.folds))
    confs = {"CONFS": str(args.classifier), "SEQUENCES": " ".join(map(str, sequences)), "FOLDS": folds}
    for script in ("preprocess", "train", "predict", "sequence"):
        run("sh", f"bin/{script}.sh", ICH_ROOT=str(root), **confs)

    classifier, first = Path(args.classifier).stem, sequences[0].stem
    controls = Controls(sequences[0], Path(args.classifier), args.folds, layout)
    candidates = {
        "bag": out_of_fold_files(Run(layout, [classifier], args.folds, EPOCHS), "cnn"),
        f"epoch {EMBED_EPOCH}": out_of_fold_files(Run(layout, [classifier], args.folds, [EMBED_EPOCH]), "cnn"),
        f"{first} alone": controls.alone(),
        f"{first} read shuffled": controls.read_shuffled(),
    }
    for sequence in sequences:
        last_epoch = {sequence.stem: load_sequence_config(sequence).epochs}
        of_sequence = Run(layout, [classifier], args.folds, EPOCHS, last_epoch)
        candidates[sequence.stem] = out_of_fold_files(of_sequence, "sequence")
    named = [word for name, files in candidates.items() for word in ("--candidate", name, *map(str, files))]
    compare = ("--root", str(root), "--smooth", "bag")
    run(python, "-m", "src.ensemble.compare", *compare, *named, "--output", str(root / "comparison.csv"))


if __name__ == "__main__":
    main()
