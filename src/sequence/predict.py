"""Predict with sequence models over one classifier's embeddings: each fold's held-out slices, and the test set."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from accelerate import Accelerator

from src.arguments import Parser
from src.classify.predict import SPLITS
from src.config import Config, SequenceConfig, load_config, load_sequence_config
from src.errors import UserError, run_command
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import read_provenance, write_predictions
from src.files.provenance import Provenance
from src.files.timing import timed
from src.labels import LABELS
from src.sequence.checkpoint import SequenceMetadata, over_classifier
from src.sequence.network import SequenceNetwork
from src.sequence.series import EmbeddedSlices, make_series_loader, predict_series, read_embedded_slices
from src.sequence.train import add_arguments
from src.train.checkpoint import load_checkpoint, read_metadata
from src.train.distributed import folder_of_one_run, leaving_together, make_accelerator
from src.train.errors import errors_explained

_log = logging.getLogger(__name__)


def predict(
    config: SequenceConfig, classifier: Config, fold: int, splits: Sequence[str], epoch: int, layout: Layout
) -> None:
    """Write the predictions of one fold's sequence model, of its last epoch.

    splits: "valid", the fold's slices, which neither the classifier nor the sequence model saw; "test". epoch: the
    classifier's. Files with the same provenance are left as they are; a second run waits for the first, and finds them.
    Raises UserError for a checkpoint that is missing or was trained with another conf or on other embeddings.
    """
    config = over_classifier(config, classifier)
    folder = layout.fold(config.name, fold)
    checkpoint = folder.checkpoint(config.epochs)
    training = read_embedded_slices(classifier, fold, epoch, layout, "train")
    metadata = read_metadata(checkpoint, SequenceMetadata, step="sequence")
    expected = SequenceMetadata.of(config, training, config.epochs)
    if metadata != replace(expected, settings=metadata.settings):  # which prediction may change
        raise UserError(
            f"{checkpoint} was trained with another conf or on other embeddings than those of {classifier.name} fold "
            f"{fold} epoch {epoch}; delete {folder.path}",
            step="sequence",
        )
    accelerator = make_accelerator(config.precision)
    with folder_of_one_run(accelerator, folder.path):
        for split in splits:
            embedded = training if split == "valid" else read_embedded_slices(classifier, fold, epoch, layout, "test")
            _require_same_network(embedded, training)
            _predict_split(accelerator, config, metadata, embedded, split, layout)


def _predict_split(
    accelerator: Accelerator,
    config: SequenceConfig,
    metadata: SequenceMetadata,
    embedded: EmbeddedSlices,
    split: str,
    layout: Layout,
) -> None:
    """Write the predictions of a split, if they are not there."""
    folder = layout.fold(config.name, embedded.fold)
    checkpoint, output = folder.checkpoint(config.epochs), folder.predictions(split, config.epochs)
    slices, of = embedded.slices.inputs.take(embedded.unseen), embedded.embeddings.provenance
    provenance = Provenance(
        conf=config.name,
        fold=embedded.fold,
        epoch=config.epochs,
        checkpoint=file_sha256(checkpoint),
        split=split,
        slices=slices.fingerprint(),
        tta=of.tta,
        classifier=of.conf,
        classifier_epoch=of.epoch,
        classifier_checkpoint=of.checkpoint,
    )
    desc = f"{config.name} fold {embedded.fold} {split}"
    finished = read_provenance(output) == provenance
    accelerator.wait_for_everyone()  # all processes must know what is due before one writes
    if finished:
        _log.info("%s: predictions are there already", desc)
        return
    network = SequenceNetwork(config, metadata.dimensions, torch.zeros(len(LABELS)))
    load_checkpoint(checkpoint, network)
    loader = accelerator.prepare(make_series_loader(config, embedded, unseen=True))
    model = accelerator.prepare_model(network, evaluation_mode=True)
    n_slices = len(slices) if accelerator.is_main_process else 0  # the others record nothing
    with timed(layout.timings, "sequence", desc, n_slices):
        probabilities = predict_series(accelerator, model, loader, len(embedded.unseen), desc)[embedded.unseen]
    if accelerator.is_main_process:
        write_predictions(output, pd.Series(slices.ids), probabilities, provenance)
        _log.info("%s: %d slices", output, len(slices))
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _require_same_network(embedded: EmbeddedSlices, training: EmbeddedSlices) -> None:
    one, other = embedded.embeddings, training.embeddings
    if (one.provenance.checkpoint, one.provenance.components) != (
        other.provenance.checkpoint,
        other.provenance.components,
    ):
        raise UserError(f"{one.path} is by another network than {other.path}", step="sequence")


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
    with errors_explained(config), leaving_together():
        for fold in args.fold:
            predict(config, classifier, fold, list(dict.fromkeys(args.split)), args.epoch, Layout(args.root))


if __name__ == "__main__":
    run_command(main)
