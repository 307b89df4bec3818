"""Predict with sequence models over one classifier's embeddings: each fold's held-out slices, and the test set."""

from collections.abc import Sequence

import pandas as pd
import torch

from src.arguments import Parser
from src.classify.checkpoint import file_sha256, load_checkpoint, read_about
from src.classify.failures import failures_explained
from src.classify.loop import make_accelerator
from src.classify.predict import SPLITS
from src.classify.processes import leaving_together
from src.config import Config, SequenceConfig, load_config, load_sequence_config
from src.errors import UserError, run_command
from src.files.layout import Layout
from src.files.predictions import Origin, read_origin, write_predictions
from src.labels import LABELS
from src.sequence.checkpoint import About, over
from src.sequence.embedded import read_embedded
from src.sequence.loop import make_series_loader, predict_series
from src.sequence.network import SequenceNetwork
from src.sequence.train import add_arguments

MADE_BY = "bin/sequence.sh"


def predict(
    config: SequenceConfig, classifier: Config, fold: int, splits: Sequence[str], epoch: int, layout: Layout
) -> None:
    """Write the predictions of one fold's sequence model, of its last epoch.

    splits: "valid", the fold's own slices, which neither the classifier nor the sequence model saw; "test". epoch: the
    classifier's. Files that were made by the same weights from the same embeddings are left as they are. Raises
    UserError for a checkpoint that is missing or was trained with another conf or on other embeddings.
    """
    config = over(config, classifier)
    folder = layout.fold(config.name, fold)
    checkpoint = folder.checkpoint(config.epochs)
    training = read_embedded(classifier, fold, epoch, layout, "train")
    found = read_about(checkpoint, About, made_by=MADE_BY)
    if found != About.of(config, training, config.epochs):
        raise UserError(
            f"{checkpoint} was trained with another conf or on other embeddings than those of {classifier.name} fold "
            f"{fold} epoch {epoch}; delete {folder.path} and run {MADE_BY} again"
        )
    accelerator = make_accelerator(config.precision)
    for split in splits:
        embedded = training if split == "valid" else read_embedded(classifier, fold, epoch, layout, "test")
        by, other = embedded.embeddings.by, training.embeddings.by
        if (by.checkpoint, by.components) != (other.checkpoint, other.components):
            what = f"{embedded.embeddings.path} is by another network than {training.embeddings.path}"
            raise UserError(f"{what}; run {MADE_BY} again")
        slices = embedded.slices.stacks.take(embedded.unseen)
        origin = Origin(
            config.name, fold, config.epochs, file_sha256(checkpoint), split, slices.fingerprint(), by.views
        )
        output = folder.predictions(split, config.epochs)
        desc = f"{config.name} fold {fold} {split}"
        if read_origin(output) == origin:
            accelerator.print(f"{desc}: predictions are there already")
            continue
        network = SequenceNetwork(config, found.dimensions, torch.zeros(len(LABELS)))
        load_checkpoint(checkpoint, network)
        loader = accelerator.prepare(make_series_loader(config, embedded, unseen=True))
        model = accelerator.prepare_model(network, evaluation_mode=True)
        probabilities = predict_series(accelerator, model, loader, len(embedded.unseen), desc)[embedded.unseen]
        if accelerator.is_main_process:
            write_predictions(output, pd.Series(slices.ids), probabilities, origin)
            print(f"{output}: {len(slices)} slices", flush=True)
        accelerator.wait_for_everyone()
        accelerator.free_memory()


def main() -> None:
    """Read arguments, predict."""
    parser = Parser(
        prog="python -m src.sequence.predict",
        description=__doc__,
        epilog="example: python -m src.sequence.predict conf/sequence/gru.yaml --classifier conf/efficientnet-b2.yaml "
        "--fold 0 1 2 3 4 --split valid test",
    )
    add_arguments(parser)
    parser.add_argument("--split", nargs="+", choices=SPLITS, required=True, help="what to predict")
    args = parser.parse_args()
    config, classifier = load_sequence_config(args.conf, args.set), load_config(args.classifier)
    with failures_explained(config), leaving_together():
        for fold in dict.fromkeys(args.fold):
            predict(config, classifier, fold, list(dict.fromkeys(args.split)), args.epoch, Layout(args.root))


if __name__ == "__main__":
    run_command(main)
