from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from src.config import Config, load_config

# the quickest network that has batch norm, on the smallest images
QUICK = [
    "network.architecture=timm/resnet10t",
    "network.pretrained=none",
    "image_size=32",
    "batch_size=8",
    "workers=0",
    "optimizer.lr=1e-3",
]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """accelerate keeps the first precision that a process asks for; a command asks once, tests ask often."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def make_config(repository: Path) -> Callable[..., Config]:
    """The conf of the quickest network, with `key=value` overrides."""
    return lambda *overrides: load_config(repository / "conf/se_resnext50_32x4d.yaml", [*QUICK, *overrides])


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config()
