"""Train one classifier on one fold: a checkpoint and a row of metrics per epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.arguments import Parser, positive
from src.classify.augment import Augmentation
from src.classify.checkpoint import About
from src.classify.dataset import EpochSampler, PlainSlices, TrainingSlices
from src.classify.failures import failures_explained
from src.classify.fit import fit
from src.classify.loading import make_loader
from src.classify.loop import predict_slices, reestimate_batch_norm, slices_and_targets
from src.classify.network import Network, build_network
from src.classify.processes import leaving_together
from src.classify.split import read_split
from src.classify.tryout import describe, overfit
from src.config import Config, load_config
from src.errors import run_command
from src.files.layout import Layout


def train(config: Config, fold: int, layout: Layout) -> None:
    """Train a classifier on all folds but `fold`, and validate on `fold` after each epoch.

    Goes on where an earlier run stopped. Raises UserError for a fold that does not exist, and as `fit`.
    """
    fit(Classifying(config, fold, layout))


class Classifying:
    """A classifier and the slices of a fold: a `fit.Task`. Raises UserError as `read_split`."""

    unit = "slices"

    def __init__(self, config: Config, fold: int, layout: Layout) -> None:
        self.config, self.fold = config, fold
        self.folder = layout.fold(config.name, fold)
        self._training, self._validation = read_split(layout, fold, config.neighbours)
        self.trained_on, self.ids = self._training.fingerprint(), self._training.ids
        self.n_items, self.targets = len(self._training), self._validation.targets

    def build(self, *, fresh: bool) -> Network:
        """The network, with the weights that its conf starts from where it is fresh."""
        return build_network(self.config, pretrained=None if fresh else "none")

    def about(self, epoch: int) -> About:
        """What the checkpoint of an epoch says of itself."""
        return About.of(self.config, self.fold, epoch, self.trained_on)

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Batches of augmented slices."""
        config = self.config
        dataset = TrainingSlices(
            self._training.stacks,
            self._training.targets,
            Augmentation(config.augment, config.image_size),
            config.window_jitter,
            len(config.windows),
            config.seed,
        )
        # drop_last, here and below: batch norm makes nothing of a last batch of one
        return make_loader(config, dataset, sampler=sampler, drop_last=True)

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of a batch: (n, 6) each."""
        return slices_and_targets(network, batch)

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the loaders of `refresh` and `validate`."""
        size = self.config.image_size
        self._validation_loader, self._statistics_loader = accelerator.prepare(
            make_loader(self.config, PlainSlices(self._validation.stacks, size)),
            make_loader(self.config, PlainSlices(self._training.stacks, size), drop_last=True),
        )

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """Estimate the statistics of batch norm anew, where the conf asks for it."""
        if self.config.network.reestimate_batch_norm:
            reestimate_batch_norm(accelerator, network, self._statistics_loader, f"{desc}, batch norm")

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the fold's own slices: (M, 6)."""
        return predict_slices(accelerator, network, self._validation_loader, len(self._validation), desc)


def main() -> None:
    """Read arguments, train, report."""
    parser = Parser(
        prog="python -m src.classify.train",
        description=__doc__,
        epilog="example: python -m src.classify.train conf/se_resnext50_32x4d.yaml --fold 0 --set optimizer.lr=1e-4",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_argument("--fold", type=int, required=True, help="the fold that is left out, from 0")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )
    trying = parser.add_mutually_exclusive_group()
    trying.add_argument("--dry-run", action="store_true", help="print the resolved conf and what it amounts to")
    trying.add_argument(
        "--overfit",
        type=positive,
        metavar="N",
        help="train on N slices alone, without augmentation, dropout and warm-up, until the loss is near zero",
    )
    args = parser.parse_args()
    config, layout = load_config(args.conf, args.set), Layout(args.root)
    with failures_explained(config), leaving_together():
        if args.dry_run:
            print(describe(config, args.fold, layout))
        elif args.overfit:
            steps, loss, count = overfit(config, args.fold, layout, args.overfit)
            print(f"{config.name}: loss {loss:.4f} on {count} slices after {steps} steps")
        else:
            train(config, args.fold, layout)


if __name__ == "__main__":
    run_command(main)
