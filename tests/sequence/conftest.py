from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import read_fold_split
from src.classify.network import build_network
from src.config import Config, SequenceConfig, load_sequence_config
from src.files.layout import Layout
from src.sequence.embed import embed
from src.train.checkpoint import save_checkpoint

EPOCH = 3  # the classifier's
QUICK = ["batch_size=2", "epochs=2", "model.width=8", "scheduler.warmup_steps=0"]


@pytest.fixture(scope="session")
def make_sequence_config(repository: Path) -> Callable[..., SequenceConfig]:
    """A small conf of a kind (gru, lstm or transformer), with `key=value` overrides."""
    return lambda kind="gru", *overrides: load_sequence_config(
        repository / f"conf/sequence/{kind}.yaml", [*QUICK, *overrides]
    )


@pytest.fixture
def sequence_config(make_sequence_config: Callable[..., SequenceConfig]) -> SequenceConfig:
    return make_sequence_config()


@pytest.fixture(scope="session")
def classifier(make_config: Callable[..., Config]) -> Config:
    """The quickest network, looked at both ways."""
    return make_config()


@pytest.fixture(scope="session")
def networks(preprocessed: Layout, classifier: Config, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A root with checkpoints of two folds' networks that were never trained. Not to be written to."""
    root = tmp_path_factory.mktemp("networks")
    (root / "cache").symlink_to(preprocessed.root / "cache")
    layout = Layout(root)
    for fold in (0, 1):
        torch.manual_seed(fold)
        metadata = ClassifierMetadata.of(classifier, fold, EPOCH, read_fold_split(layout, fold)[0].fingerprint())
        save_checkpoint(layout.fold(classifier.name, fold).checkpoint(EPOCH), build_network(classifier), metadata)
    return layout


@pytest.fixture(scope="session")
def embedded(networks: Layout, classifier: Config) -> Layout:
    """The same with embeddings. Not to be written to."""
    embed(classifier, [0, 1], EPOCH, networks)
    return networks
