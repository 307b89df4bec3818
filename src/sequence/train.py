"""Train a sequence model over one classifier's embeddings, on some folds: a checkpoint and metrics for each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.arguments import Parser
from src.classify.dataset import EpochSampler
from src.classify.failures import failures_explained
from src.classify.fit import fit
from src.classify.processes import leaving_together
from src.config import Config, SequenceConfig, load_config, load_sequence_config
from src.errors import run_command
from src.files.layout import Layout
from src.sequence.checkpoint import About, over
from src.sequence.embedded import Embedded, read_embedded
from src.sequence.loop import make_series_loader, predict_series
from src.sequence.network import SequenceNetwork


def train(config: SequenceConfig, classifier: Config, fold: int, epoch: int, layout: Layout) -> None:
    """Train a sequence model on the series of all folds but `fold`, and validate on the fold's own after each epoch.

    epoch: the classifier's. Goes on where an earlier run stopped. Raises UserError as `read_embedded` and `fit`.
    """
    fit(Sequencing(over(config, classifier), read_embedded(classifier, fold, epoch, layout, "train"), layout))


class Sequencing:
    """A sequence model, under its name over a classifier, and embedded series: a `fit.Task`."""

    unit = "series"

    def __init__(self, config: SequenceConfig, embedded: Embedded, layout: Layout) -> None:
        self.config, self._embedded = config, embedded
        self.fold = embedded.fold
        self.folder = layout.fold(config.name, self.fold)
        self.trained_on = embedded.fingerprint()
        self.ids, self.n_items = embedded.slices.ids, len(embedded.series(unseen=False))
        self.targets = embedded.slices.targets[embedded.unseen]

    def build(self, *, fresh: bool) -> SequenceNetwork:
        """The network, which begins as the classifier."""
        slices = self._embedded.slices
        prior = torch.from_numpy(slices.targets[~self._embedded.unseen].mean(axis=0))
        return SequenceNetwork(self.config, self._embedded.embeddings.dimensions, prior)

    def about(self, epoch: int) -> About:
        """What the checkpoint of an epoch says of itself."""
        return About.of(self.config, self._embedded, epoch)

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Batches of series."""
        return make_series_loader(self.config, self._embedded, unseen=False, sampler=sampler, drop_last=True)

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the n real slices of a batch: (n, 6) each."""
        return network(batch)[batch["mask"]], batch["target"]

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the loader of `validate`."""
        loader = make_series_loader(self.config, self._embedded, unseen=True)
        self._validation_loader = accelerator.prepare(loader)

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """Nothing: it has no batch norm."""

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the fold's own slices: (M, 6)."""
        predicted = predict_series(accelerator, network, self._validation_loader, len(self.ids), desc)
        return predicted[self._embedded.unseen]


def main() -> None:
    """Read arguments, train, report."""
    parser = Parser(
        prog="python -m src.sequence.train",
        description=__doc__,
        epilog="example: python -m src.sequence.train conf/sequence/gru.yaml --classifier conf/efficientnet-b2.yaml "
        "--fold 0 1 2 3 4",
    )
    add_arguments(parser)
    args = parser.parse_args()
    config, classifier = load_sequence_config(args.conf, args.set), load_config(args.classifier)
    with failures_explained(config), leaving_together():
        for fold in dict.fromkeys(args.fold):
            train(config, classifier, fold, args.epoch, Layout(args.root))


def add_arguments(parser: Parser) -> None:
    """What training and prediction of a sequence model are told."""
    parser.add_argument("conf", type=Path, help="a file of conf/sequence/")
    parser.add_argument("--classifier", type=Path, required=True, metavar="CONF", help="whose embeddings it reads")
    parser.add_argument(
        "--fold", type=int, nargs="+", required=True, metavar="K", help="folds left out in turn, from 0"
    )
    parser.add_argument("--epoch", type=int, default=3, metavar="E", help="the classifier's (default 3)")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )


if __name__ == "__main__":
    run_command(main)
