"""A small trained pipeline: two classifiers, one with adjacent slices, two folds, and sequence models over them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import read_fold_split
from src.classify.network import build_network
from src.classify.predict import predict
from src.config import Config, SequenceConfig, dump_config, load_sequence_config
from src.ct.series import Series
from src.detector import Detector
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import write_folder
from src.ensemble.make import make, write
from src.ensemble.manifest import Inputs
from src.ensemble.recipe import Recipe
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.run import Run
from src.labels import LABELS
from src.sequence import predict as sequence_predict
from src.sequence import train as sequence_train
from src.sequence.embed import embed
from src.train.checkpoint import save_checkpoint

FOLDS = (0, 1)
EPOCHS = (2, 3)


@dataclass(frozen=True)
class Trained:
    """A root with predictions of everything, and the confs behind them."""

    layout: Layout
    classifiers: list[Config]
    sequence: SequenceConfig

    def submit(self, members: str, recipe: Recipe, classifiers: list[str] | None = None) -> Path:
        """Make a submission of some members; return its manifest."""
        names = classifiers or [config.name for config in self.classifiers]
        run = Run(self.layout, names, FOLDS, EPOCHS, {self.sequence.name: self.sequence.epochs})
        test, valid = (run.prediction_files(split, members)[0] for split in ("test", "valid"))
        sample = self.layout.root / "input" / "stage_2_sample_submission.csv"
        inputs = Inputs(test, valid, sample, self.layout.root, recipe)
        write(make(inputs), inputs, self.layout.submission)
        return self.layout.submission.with_name("manifest.json")


def _untrained(config: Config, layout: Layout) -> None:
    """Checkpoints of networks that were never trained, whose last layer tells slices apart."""
    for fold in FOLDS:
        folder, data = layout.fold(config.name, fold), read_fold_split(layout, fold, config.neighbours)[0]
        for epoch in EPOCHS:
            torch.manual_seed(100 * fold + epoch)
            network = build_network(config)
            with torch.no_grad():
                network.classifier.weight.mul_(20)
            metadata = ClassifierMetadata.of(config, fold, epoch, data.fingerprint())
            save_checkpoint(folder.checkpoint(epoch), network, metadata)
        folder.conf.write_text(dump_config(config))


def _train(
    root: Path, preprocessed: Layout, make_config: Callable[..., Config], conf: Path, pca: int | None
) -> Trained:
    for name in ("input", "cache"):
        (root / name).symlink_to(preprocessed.root / name)
    layout, sequence = Layout(root), load_sequence_config(conf, ["batch_size=2", "epochs=2", "model.width=8"])
    one = make_config()
    two = make_config("neighbours=1", "image_size=64", "tta=[{name: Identity}, {name: Rotate, degrees: 10}]")
    two = two.model_copy(update={"name": "adjacent"})
    for config in (one, two):
        _untrained(config, layout)
        predict(config, FOLDS, ["valid", "test"], EPOCHS, layout)
        embed(config, FOLDS, 3, layout, components=pca)
        for fold in FOLDS:
            sequence_train.train(sequence, config, fold, 3, layout)
            sequence_predict.predict(sequence, config, fold, ["valid", "test"], 3, layout)
    return Trained(layout, [one, two], sequence)


@pytest.fixture(scope="session")
def trained(
    preprocessed: Layout,
    make_config: Callable[..., Config],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """With embeddings as the networks give them."""
    root = tmp_path_factory.mktemp("trained")
    return _train(root, preprocessed, make_config, repository / "conf/sequence/gru.yaml", None)


@pytest.fixture(scope="session")
def trained_on_components(
    preprocessed: Layout,
    make_config: Callable[..., Config],
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """With embeddings reduced to five principal components, and a transformer over them."""
    root = tmp_path_factory.mktemp("components")
    return _train(root, preprocessed, make_config, repository / "conf/sequence/transformer.yaml", 5)


@pytest.fixture(scope="session")
def test_series(preprocessed: Layout) -> list[Series]:
    """The test set's series, as somebody who knows nothing of the pipeline would hand them over."""
    store = ImageStore(preprocessed.store("test"))
    table = pd.read_parquet(preprocessed.table("test")).set_index("ID").loc[store.index["ID"]]
    series = []
    for _, part in table.groupby("SeriesInstanceUID"):
        ids = part.index.tolist()
        series.append(Series([store.hounsfield(each) for each in ids], part["z"].to_numpy(), ids))
    return series


def export(manifest: Path, layout: Layout, folder: Path, selection: Selection | None = None) -> Path:
    """Make a detector of a submission."""
    description, weights = collect(manifest, layout, selection or Selection())
    write_folder(folder, description, weights, model_card(description))
    return folder


@pytest.fixture(scope="session")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of everything that was trained. Not to be written to."""
    made = export(
        trained.submit("all", Recipe(smooth_mm=5.0)), trained.layout, tmp_path_factory.mktemp("whole") / "detector"
    )
    for name in ("submission.csv", "manifest.json", "out_of_fold.parquet"):
        shutil.copy(trained.layout.submission.with_name(name), made.parent)
    return made


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    """The same, loaded."""
    return Detector.load(folder)


def probabilities_of(submission: Path) -> dict[str, np.ndarray]:
    """A submission's probabilities by slice: (6,) each, in the order of LABELS."""
    table = pd.read_csv(submission)
    table[["slice", "label"]] = table["ID"].str.rsplit("_", n=1, expand=True)
    wide = table.pivot(index="slice", columns="label", values="Label")[list(LABELS)]
    return dict(zip(wide.index, wide.to_numpy(), strict=True))
