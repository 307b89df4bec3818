"""Predict with the checkpoints of one classifier and one fold: out-of-fold slices, or the test set."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader

from src.arguments import Parser
from src.classify.checkpoint import About, file_sha256, load_checkpoint, read_about
from src.classify.dataset import PlainSlices, keep_memory
from src.classify.failures import failures_explained
from src.classify.loop import make_accelerator, predict_slices
from src.classify.network import build_network
from src.classify.processes import leaving_together
from src.classify.split import read_split
from src.classify.stacks import find_stacks
from src.config import Config, load_config
from src.errors import UserError, run_command
from src.files.layout import Layout
from src.files.predictions import Origin, read_origin, write_predictions

SPLITS = ("valid", "test")


def predict(config: Config, fold: int, split: str, epochs: Sequence[int], layout: Layout) -> None:
    """Write a prediction file for each epoch's checkpoint; each slice is read once for all of them.

    split: "valid" for the slices of the fold that the networks did not see, "test" for the test set. Files that were
    made by the same checkpoints from the same slices are left as they are. Raises UserError for checkpoints that are
    missing or of another conf or fold.
    """
    folder = layout.fold(config.name, fold)
    if split == "valid":
        training, validation = read_split(layout, fold, config.neighbours)
        _check_unseen([folder.checkpoint(epoch) for epoch in epochs], training.fingerprint())
        stacks = validation.stacks
    else:
        stacks = find_stacks(layout, "test", config.neighbours)
    slices = stacks.fingerprint()
    origins = {epoch: _origin(config, fold, split, epoch, folder.checkpoint(epoch), slices) for epoch in epochs}
    due = [epoch for epoch in epochs if read_origin(folder.predictions(split, epoch)) != origins[epoch]]
    if not due:
        print(f"{folder.path}: {split} predictions of epochs {', '.join(map(str, epochs))} are there already")
        return

    accelerator = make_accelerator(config.precision)
    networks = []
    for epoch in due:
        network = build_network(config, pretrained="none")
        load_checkpoint(folder.checkpoint(epoch), network)
        networks.append(accelerator.prepare_model(network, evaluation_mode=True))
    loader = accelerator.prepare(
        DataLoader(
            PlainSlices(stacks, config.image_size),
            batch_size=config.batch_size,
            num_workers=config.workers,
            worker_init_fn=keep_memory,
            pin_memory=torch.cuda.is_available(),
        )
    )
    desc = f"{config.name} fold {fold} epochs {' '.join(map(str, due))}, {split}"
    probabilities = predict_slices(accelerator, networks, loader, len(stacks), desc)
    if accelerator.is_main_process:
        for epoch, of_epoch in zip(due, probabilities, strict=True):
            write_predictions(folder.predictions(split, epoch), pd.Series(stacks.ids), of_epoch, origins[epoch])


def _check_unseen(checkpoints: Sequence[Path], training: str) -> None:
    """Raise UserError for a network that was trained on other slices than the fold's: it may have seen the rest."""
    for path in checkpoints:
        if read_about(path).trained_on != training:
            raise UserError(
                f"{path} was trained on other slices, folds or labels than {path.parent.name} has now, so its "
                f"predictions would not be out of fold; delete {path.parent} and run bin/train.sh again"
            )


def _origin(config: Config, fold: int, split: str, epoch: int, checkpoint: Path, slices: str) -> Origin:
    about = read_about(checkpoint)
    expected = About.of(config, fold, epoch, about.trained_on)
    for key, value in asdict(expected).items():
        if getattr(about, key) != value:
            raise UserError(f"{checkpoint} was trained with {key} {getattr(about, key)}, expected {value}")
    return Origin(config.name, fold, epoch, file_sha256(checkpoint), split, slices)


def main() -> None:
    """Read arguments, predict."""
    parser = Parser(
        prog="python -m src.classify.predict",
        description=__doc__,
        epilog="example: python -m src.classify.predict conf/se_resnext50_32x4d.yaml --fold 0 --split valid test",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_argument("--fold", type=int, required=True, help="the fold that the networks did not see, from 0")
    parser.add_argument("--split", nargs="+", choices=SPLITS, required=True, help="what to predict; both go together")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 3], help="whose checkpoints (default 2 3)")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )
    args = parser.parse_args()
    config = load_config(args.conf, args.set)
    with failures_explained(config), leaving_together():
        for split in args.split:
            predict(config, args.fold, split, args.epochs, Layout(args.root))


if __name__ == "__main__":
    run_command(main)
