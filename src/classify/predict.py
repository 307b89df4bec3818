"""Predict with the checkpoints of one classifier: each fold's held-out slices, or the test set."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
from accelerate import Accelerator

from src.arguments import Parser, positive
from src.classify.checkpoint import check_checkpoint
from src.classify.jobs import Job, JobGroup, plan_predictions
from src.classify.predictor import SAVE_S, NoSink, Predictor, Sink, run_jobs
from src.config import Config, load_config
from src.errors import run_command
from src.files.atomic import sweep_partials
from src.files.checksum import file_sha256
from src.files.folds import read_fold_table
from src.files.layout import Layout
from src.files.partial_predictions import PartialPredictions, read_key
from src.files.predictions import read_provenance, write_predictions
from src.files.provenance import Provenance
from src.files.timing import recorder
from src.train.distributed import folder_of_one_run, leaving_together, make_accelerator
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
    `run_jobs`. A second run of one of the folds waits for the first, and finds its files. Raises UserError as
    `plan_predictions` does, before anything is predicted.
    """
    if "valid" in splits:
        read_fold_table(layout)  # what is missing of the first step is said first
    folders = [layout.fold(config.name, fold) for fold in folds]
    for folder, fold in zip(folders, folds, strict=True):
        for epoch in epochs:
            check_checkpoint(folder.checkpoint(epoch), config, fold, epoch)  # before a folder is made
    accelerator = make_accelerator(config.precision)
    with _held(accelerator, [folder.partial_predictions for folder in folders]):
        groups = plan_predictions(config, folds, splits, epochs, layout)
        accelerator.wait_for_everyone()  # all processes must know what is due before one writes
        done = recorder(layout.timings, "predict")
        for group in groups:
            if not group.due:
                _log.info("%s: predictions of epochs %s are there already", group.name, ", ".join(map(str, epochs)))
                continue

            @contextmanager
            def open_sink(jobs: Sequence[Job], predictor: Predictor, group: JobGroup = group) -> Iterator[Sink]:
                if not accelerator.is_main_process:
                    yield NoSink()
                    return
                partial = _partial_predictions(group, jobs, layout)
                yield partial
                for job, probabilities in zip(jobs, partial.probabilities, strict=True):
                    write_predictions(job.output, pd.Series(group.inputs.ids), probabilities, job.provenance)
                partial.delete()

            run_jobs(config, accelerator, group, open_sink, at_once=at_once, save_s=save_s, on_done=done)
        if accelerator.is_main_process:
            for folder in folders:
                _sweep(folder.partial_predictions, layout)


@contextmanager
def _held(accelerator: Accelerator, folders: Sequence[Path]) -> Iterator[None]:
    """Hold the folders of partial results of some folds; runs of other folds go on beside this one."""
    with ExitStack() as stack:
        for folder in sorted(folders):  # in one order, so that two runs never wait for each other
            stack.enter_context(folder_of_one_run(accelerator, folder))
            if accelerator.is_main_process:
                stack.callback(_delete_if_empty, folder)
        yield


def _delete_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _partial_predictions(group: JobGroup, jobs: Sequence[Job], layout: Layout) -> PartialPredictions:
    """What an earlier run has predicted of a group's slices by the networks of these jobs."""
    first = jobs[0].provenance  # one of the folds that are held
    folder = layout.fold(first.conf, first.fold).partial_predictions
    key = json.dumps([job.provenance.record() for job in jobs])
    # named by its networks: where some files of a group are finished, the rest may be divided in another way
    path = folder / f"{group.key}_{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    return PartialPredictions(path, key, len(jobs), len(group.inputs))


def _sweep(folder: Path, layout: Layout) -> None:
    """Delete what killed runs left in a folder that this run holds, and no run will take over."""
    sweep_partials(folder)
    for path in folder.glob("*.npz"):
        key = read_key(path)
        if key is None or not any(_is_due(Provenance.from_record(record), layout) for record in json.loads(key)):
            path.unlink()


def _is_due(of: Provenance, layout: Layout) -> bool:
    """Whether the checkpoint of some predictions is as it was, and they are not there yet."""
    folder = layout.fold(of.conf, of.fold)
    checkpoint = folder.checkpoint(of.epoch)
    if read_provenance(folder.predictions(of.split, of.epoch)) == of:
        return False
    return checkpoint.is_file() and file_sha256(checkpoint) == of.checkpoint


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
