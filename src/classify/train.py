"""Train one classifier on some folds: a checkpoint and a row of metrics for each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.arguments import Parser, positive
from src.classify.checkpoint import ClassifierMetadata, pack_patients, require_unseen, seen_patients
from src.classify.dataset import EvalDataset, TrainingDataset, read_fold_split
from src.classify.network import Network, build_network
from src.classify.predictor import predict_slices
from src.classify.sanity import describe, overfit
from src.config import Config, load_config
from src.errors import run_command
from src.files.layout import Layout
from src.train.distributed import leaving_together
from src.train.epoch import reestimate_batch_norm
from src.train.errors import errors_explained
from src.train.loader import EpochSampler, make_loader
from src.train.trainer import fit


def train(config: Config, fold: int, layout: Layout) -> None:
    """Train a classifier on all folds but `fold`, and validate on `fold` after each epoch.

    Goes on where an earlier run stopped. Raises UserError for a fold that does not exist, and as `fit`.
    """
    fit(ClassifierTask(config, fold, layout))


class ClassifierTask:
    """A classifier and the slices of a fold: a `trainer.Task`. Raises UserError as `read_fold_split`."""

    unit = "slices"

    def __init__(self, config: Config, fold: int, layout: Layout) -> None:
        self.config, self.fold = config, fold
        self.folder = layout.fold(config.name, fold)
        self._training, self._validation = read_fold_split(layout, fold, config.neighbours)
        self.data_fingerprint, self.ids = self._training.fingerprint(), self._training.ids
        self.n_items, self.targets = len(self._training), self._validation.targets
        pretrained = config.network.pretrained
        seen = seen_patients(pretrained)
        require_unseen(f"network.pretrained: {pretrained}", seen, self._validation.patients)
        self._patients = pack_patients(np.concatenate([seen, self._training.patients]))

    def build(self, *, fresh: bool) -> Network:
        """The network; with the weights that its conf starts from where it is fresh."""
        return build_network(self.config, pretrained=None if fresh else "none")

    def metadata(self, epoch: int) -> ClassifierMetadata:
        """What the checkpoint of an epoch records."""
        return ClassifierMetadata.of(self.config, self.fold, epoch, self.data_fingerprint, self._patients)

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Batches of augmented slices."""
        dataset = TrainingDataset(self._training, self.config)
        # drop_last, here and below: batch norm fails on a last batch of one
        return make_loader(self.config, dataset, sampler=sampler, drop_last=True)

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of a batch: (n, 6) each."""
        return network(batch["image"], batch["jitter"]), batch["target"]

    def prepare(self, accelerator: Accelerator) -> None:
        """Make the loaders of `refresh` and `validate`."""
        self._validation_loader, self._statistics_loader = accelerator.prepare(
            make_loader(self.config, EvalDataset(self._validation.inputs, self.config)),
            make_loader(self.config, EvalDataset(self._training.inputs, self.config), drop_last=True),
        )

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """Re-estimate the statistics of batch norm, where the conf asks for it."""
        if self.config.network.reestimate_batch_norm:
            reestimate_batch_norm(accelerator, network, self._statistics_loader, f"{desc}, batch norm")

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the held-out slices: (M, 6)."""
        return predict_slices(accelerator, network, self._validation_loader, len(self._validation), desc)


def main() -> None:
    """Read arguments, train, report."""
    parser = Parser(
        prog="python -m src.classify.train",
        description=__doc__,
        epilog="example: python -m src.classify.train conf/se_resnext50_32x4d.yaml --fold 0 --set optimizer.lr=1e-4",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_folds("folds held out in turn")
    parser.add_root()
    parser.add_overrides()
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
    if (args.dry_run or args.overfit) and len(args.fold) > 1:
        parser.error("--dry-run and --overfit look at one fold; give one --fold")
    with errors_explained(config), leaving_together():
        if args.dry_run:
            print(describe(config, args.fold[0], layout))
        elif args.overfit:
            steps, loss, count = overfit(config, args.fold[0], layout, args.overfit)
            print(f"{config.name}: loss {loss:.4f} on {count} slices after {steps} steps")
        else:
            for fold in args.fold:
                train(config, fold, layout)


if __name__ == "__main__":
    run_command(main)
