from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.classify.checkpoint import (
    About,
    file_sha256,
    load_checkpoint,
    read_about,
    save_checkpoint,
)
from src.classify.network import build_network
from src.config import Config
from src.errors import UserError


@pytest.fixture
def about(config: Config) -> About:
    return About.of(config, fold=1, epoch=2, trained_on="t")


def test_round_trip_is_exact(config: Config, about: About, tmp_path: Path) -> None:
    network, other = build_network(config), build_network(config)
    save_checkpoint(tmp_path / "c.safetensors", network, about)
    load_checkpoint(tmp_path / "c.safetensors", other)
    assert read_about(tmp_path / "c.safetensors", About) == about
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_nothing_in_it_changes_from_run_to_run(config: Config, about: About, tmp_path: Path) -> None:
    network = build_network(config)
    hashes = set()
    for i in range(5):
        save_checkpoint(tmp_path / f"{i}.safetensors", network, about)
        hashes.add(file_sha256(tmp_path / f"{i}.safetensors"))
    assert len(hashes) == 1


def test_what_is_no_checkpoint_or_of_another_network_is_named(
    config: Config, make_config: Callable[..., Config], about: About, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match=r"c.safetensors is missing; bin/train.sh makes it"):
        read_about(path, About)
    path.write_text("no checkpoint")
    with pytest.raises(UserError, match="not a checkpoint of this pipeline"):
        read_about(path, About)
    save_checkpoint(path, build_network(make_config("network.architecture=timm/resnet18")), about)
    with pytest.raises(UserError, match="of another network: it differs at backbone"):
        load_checkpoint(path, build_network(config))
