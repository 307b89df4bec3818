"""Train a sequence model over one classifier's embeddings, on some folds: a checkpoint and metrics for each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.arguments import Parser
from src.config import Config, SequenceConfig, load_config, load_sequence_config
from src.errors import run_command
from src.files.layout import Layout
from src.sequence.checkpoint import SequenceMetadata, over_classifier
from src.sequence.network import SequenceNetwork
from src.sequence.series import (
    EmbeddedSlices,
    batch_logits,
    make_series_loader,
    predict_series,
    read_embedded_slices,
)
from src.train.distributed import leaving_together
from src.train.errors import errors_explained
from src.train.loader import EpochSampler
from src.train.trainer import fit


def train(config: SequenceConfig, classifier: Config, fold: int, epoch: int, layout: Layout) -> None:
    """Train a sequence model on the series of all folds but `fold`, and validate on those of `fold` after each epoch.

    epoch: the classifier's. Goes on where an earlier run stopped. Raises UserError as `read_embedded_slices` and `fit`.
    """
    embedded = read_embedded_slices(classifier, fold, epoch, layout, "train")
    fit(SequenceTask(over_classifier(config, classifier), embedded, layout))


class SequenceTask:
    """A sequence model, under its name over a classifier, and embedded series: a `trainer.Task`."""

    unit = "series"

    def __init__(self, config: SequenceConfig, embedded: EmbeddedSlices, layout: Layout) -> None:
        if embedded.slices.targets is None:
            raise ValueError("slices without targets; expected training slices")
        self.config, self._embedded, self._targets = config, embedded, embedded.slices.targets
        self.fold = embedded.fold
        self.folder = layout.fold(config.name, self.fold)
        self.data_fingerprint = embedded.fingerprint()
        self.ids, self.n_items = embedded.slices.ids, len(embedded.series(unseen=False))
        self.targets = self._targets[embedded.unseen]

    def build(self, *, fresh: bool) -> SequenceNetwork:
        """The network, which predicts as the classifier before it is trained."""
        prior = torch.from_numpy(self._targets[~self._embedded.unseen].mean(axis=0))
        return SequenceNetwork(self.config, self._embedded.embeddings.dimensions, prior)

    def metadata(self, epoch: int) -> SequenceMetadata:
        """What the checkpoint of an epoch records."""
        return SequenceMetadata.of(self.config, self._embedded, epoch)

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Batches of series."""
        return make_series_loader(self.config, self._embedded, unseen=False, sampler=sampler, drop_last=True)

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the n real slices of a batch: (n, 6) each."""
        return batch_logits(network, batch), batch["target"]

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the loader of `validate`."""
        loader = make_series_loader(self.config, self._embedded, unseen=True)
        self._validation_loader = accelerator.prepare(loader)

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """Nothing: it has no batch norm."""

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the held-out slices: (M, 6)."""
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
    with errors_explained(config), leaving_together():
        for fold in args.fold:
            train(config, classifier, fold, args.epoch, Layout(args.root))


def add_arguments(parser: Parser) -> None:
    """Add the arguments that training and prediction of a sequence model share."""
    parser.add_argument("conf", type=Path, help="a file of conf/sequence/")
    parser.add_argument("--classifier", type=Path, required=True, metavar="CONF", help="whose embeddings it reads")
    parser.add_folds("folds held out in turn")
    parser.add_epoch()
    parser.add_root()
    parser.add_overrides()


if __name__ == "__main__":
    run_command(main)
