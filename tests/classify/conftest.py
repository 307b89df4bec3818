"""A classifier that was trained, and a place to train another."""

from pathlib import Path

import pytest

from src.classify.train import train
from src.config import Config, load_config
from src.files.layout import Layout


@pytest.fixture
def layout(preprocessed: Layout, tmp_path: Path) -> Layout:
    """A root of one's own, with the shared cache."""
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    return Layout(tmp_path)


@pytest.fixture(scope="session")
def trained(preprocessed: Layout, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Layout]:
    root = tmp_path_factory.mktemp("trained")
    (root / "cache").symlink_to(preprocessed.root / "cache")
    quick = ["network.architecture=timm/test_efficientnet", "network.pretrained=none", "image_size=32", "batch_size=8"]
    # dropout draws from torch's own generator; a milestone after the stop shows that the scheduler goes on too
    quick += ["network.dropout=0.3", "scheduler.milestones=[2]", "workers=0", "optimizer.lr=1e-3", "save_steps=2"]
    quick += ["ema_decay=0.5", "neighbours=1"]
    config = load_config(repository / "conf/se_resnext50_32x4d.yaml", quick)
    train(config, 0, Layout(root))
    return config, Layout(root)
