"""Predict with the checkpoints of one classifier: each fold's held-out slices, or the test set."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from src.arguments import Parser, positive
from src.classify.jobs import Job, JobGroup, plan_predictions
from src.classify.predictor import SAVE_S, NoSink, Predictor, Sink, run_jobs
from src.config import Config, load_config
from src.errors import run_command
from src.files.layout import Layout
from src.files.partial_predictions import PartialPredictions
from src.files.predictions import write_predictions
from src.train.distributed import leaving_together, make_accelerator
from src.train.errors import errors_explained

_log = logging.getLogger(__name__)

SPLITS = ("valid", "test")


def predict(
    config: Config,
    folds: Sequence[int],
    splits: Sequence[str],
    epochs: Sequence[int],
    layout: Layout,
    *,
    at_once: int | None = None,
    save_s: float = SAVE_S,
) -> None:
    """Write a prediction file for each fold and epoch; each slice is read once for all networks that predict it.

    splits: "valid", the slices of each fold that its networks did not see; "test", the test set. Files with the same
    provenance are left as they are; an interrupted prediction goes on after its last save. at_once, save_s: see
    `run_jobs`. Raises UserError as `plan_predictions` does, before anything is predicted.
    """
    groups = plan_predictions(config, folds, splits, epochs, layout)
    accelerator = make_accelerator(config.precision)
    for group in groups:
        if not group.due:
            _log.info("%s: predictions of epochs %s are there already", group.name, ", ".join(map(str, epochs)))
            continue

        @contextmanager
        def open_sink(jobs: Sequence[Job], predictor: Predictor, group: JobGroup = group) -> Iterator[Sink]:
            if not accelerator.is_main_process:
                yield NoSink()
                return
            partial = _partial_predictions(layout.partial_predictions(config.name), group, jobs)
            yield partial
            for job, probabilities in zip(jobs, partial.probabilities, strict=True):
                write_predictions(job.output, pd.Series(group.inputs.ids), probabilities, job.provenance)
            partial.delete()

        run_jobs(config, accelerator, group, open_sink, at_once=at_once, save_s=save_s)


def _partial_predictions(folder: Path, group: JobGroup, jobs: Sequence[Job]) -> PartialPredictions:
    """What an earlier run has predicted of a group's slices by the networks of these jobs."""
    key = json.dumps([job.provenance.record() for job in jobs])
    # named by its networks: where some files of a group are finished, the rest may be divided in another way
    path = folder / f"{group.key}_{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    return PartialPredictions(path, key, len(jobs), len(group.inputs))


def main() -> None:
    """Read arguments, predict."""
    parser = Parser(
        prog="python -m src.classify.predict",
        description=__doc__,
        epilog="example: python -m src.classify.predict conf/se_resnext50_32x4d.yaml --fold 0 1 --split valid test",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_folds("folds that the networks did not see")
    parser.add_argument("--split", nargs="+", choices=SPLITS, required=True, help="what to predict; both go together")
    parser.add_epochs()
    parser.add_root()
    add_inference_arguments(parser)
    parser.add_overrides()
    args = parser.parse_args()
    config, splits = load_config(args.conf, args.set), list(dict.fromkeys(args.split))
    more = {"at_once": args.at_once, "save_s": args.save_seconds}
    with errors_explained(config), leaving_together():
        predict(config, args.fold, splits, args.epochs, Layout(args.root), **more)


def add_inference_arguments(parser: Parser) -> None:
    """Add `--at-once` and `--save-seconds`."""
    parser.add_argument(
        "--at-once",
        type=positive,
        metavar="N",
        help="networks in memory together (default: as many as half of the free memory holds)",
    )
    parser.add_argument(
        "--save-seconds",
        type=float,
        default=SAVE_S,
        metavar="S",
        help=f"seconds between two saves, from which an interrupted run goes on (default {SAVE_S:.0f})",
    )


if __name__ == "__main__":
    run_command(main)
