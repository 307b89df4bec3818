"""Predict with the checkpoints of one classifier: each fold's held-out slices, or the test set."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import Subset

from src.arguments import Parser, positive
from src.classify.dataset import PlainSlices
from src.classify.failures import failures_explained
from src.classify.loading import make_loader
from src.classify.loop import make_accelerator, predict_batches
from src.classify.network import Network, build_network
from src.classify.passes import Job, plan_passes
from src.classify.processes import leaving_together
from src.classify.several import how_many_fit, load_several
from src.classify.stacks import Stacks
from src.config import Config, load_config
from src.errors import Stopped, run_command
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.unfinished import Unfinished

SPLITS = ("valid", "test")
SAVE_S = 60.0  # between two saves of what is predicted so far


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

    splits: "valid", the slices of each fold that its networks did not see; "test", the test set. Files that were made
    by the same checkpoints from the same slices are left as they are; what was interrupted goes on after the last save.
    at_once: networks in memory together; None for as many as half of the free memory holds. save_s: seconds between
    two saves. Raises UserError as `plan_passes` does, before anything is predicted.
    """
    passes = plan_passes(config, folds, splits, epochs, layout)
    accelerator = make_accelerator(config.precision)
    for each in passes:
        due = [job for job in each.jobs if not job.finished]
        if not due:
            accelerator.print(f"{each.name}: predictions of epochs {', '.join(map(str, epochs))} are there already")
            continue
        network = build_network(config, pretrained="none")
        together = at_once or how_many_fit(accelerator, network)
        for first in range(0, len(due), together):
            group = due[first : first + together]
            last = first + len(group)
            desc = f"{each.name}, checkpoint{'s' if len(group) > 1 else ''} {_range(first + 1, last)} of {len(due)}"
            with _kept(accelerator, layout.unfinished(config.name), each.word, group, len(each.stacks), save_s) as kept:
                _predict(config, accelerator, network, each.stacks, group, kept, desc)
                if accelerator.is_main_process:
                    for job, probabilities in zip(group, kept.probabilities, strict=True):
                        write_predictions(job.output, pd.Series(each.stacks.ids), probabilities, job.origin)
            if accelerator.is_main_process:
                kept.delete()
            accelerator.wait_for_everyone()
            accelerator.free_memory()


def _predict(
    config: Config,
    accelerator: Accelerator,
    network: Network,
    stacks: Stacks,
    group: Sequence[Job],
    kept: Unfinished,
    desc: str,
) -> None:
    """One pass over what is left of the slices, with all networks of a group."""
    first = broadcast_object_list([kept.done])[0]
    if first == len(stacks):
        return
    networks = load_several(accelerator, network, [job.checkpoint for job in group])
    rest = Subset(PlainSlices(stacks, config.image_size), range(first, len(stacks)))
    begun, waiting = time.perf_counter(), 0.0
    batches = predict_batches(
        accelerator,
        networks,
        accelerator.prepare(make_loader(config, rest)),
        desc,
        n_slices=len(stacks),
        done=first,
        views=config.tta,
    )
    for index, probabilities, waited in batches:
        kept.add(index, probabilities)
        waiting += waited
    seconds, slices = time.perf_counter() - begun, len(stacks) - first
    accelerator.print(
        f"{desc}: {slices} slices in {seconds:.0f} s, {slices / seconds:.0f} slices/s, "
        f"{waiting / seconds:.0%} of the time spent waiting for data"
    )


@contextmanager
def _kept(
    accelerator: Accelerator, folder: Path, word: str, group: Sequence[Job], n_slices: int, save_s: float
) -> Iterator[Unfinished]:
    """What is predicted so far, which the first process keeps now and then and where the run is told to stop."""
    key = json.dumps([asdict(job.origin) for job in group])
    # by its networks: where some files of a pass are finished, what is left may be another number of groups
    path = folder / f"{word}_{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    kept = Unfinished(path, key, len(group), n_slices, save_s if accelerator.is_main_process else float("inf"))
    try:
        yield kept
    except (Stopped, KeyboardInterrupt):
        if accelerator.is_main_process and kept.done:
            kept.save()
        raise


def _range(first: int, last: int) -> str:
    return f"{first} to {last}" if last > first else f"{first}"


def main() -> None:
    """Read arguments, predict."""
    parser = Parser(
        prog="python -m src.classify.predict",
        description=__doc__,
        epilog="example: python -m src.classify.predict conf/se_resnext50_32x4d.yaml --fold 0 1 --split valid test",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_argument(
        "--fold", type=int, nargs="+", required=True, metavar="K", help="folds that the networks did not see, from 0"
    )
    parser.add_argument("--split", nargs="+", choices=SPLITS, required=True, help="what to predict; both go together")
    parser.add_argument(
        "--epochs", type=int, nargs="+", default=[2, 3], metavar="E", help="whose checkpoints (default 2 3)"
    )
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
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
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )
    args = parser.parse_args()
    config = load_config(args.conf, args.set)
    folds, splits, epochs = (list(dict.fromkeys(given)) for given in (args.fold, args.split, args.epochs))
    with failures_explained(config), leaving_together():
        predict(config, folds, splits, epochs, Layout(args.root), at_once=args.at_once, save_s=args.save_seconds)


if __name__ == "__main__":
    run_command(main)
