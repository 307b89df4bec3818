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
from src.classify.network import Network, build_network
from src.config import NetworkConf
from src.errors import UserError

ABOUT = About(conf="net", architecture="timm/resnet10t", image_size=32, fold=1, epoch=2, trained_on="t")


def _network(architecture: str = "timm/resnet10t") -> Network:
    return build_network(NetworkConf(architecture=architecture, pretrained="none"), 32)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    network, other = _network(), _network()
    save_checkpoint(tmp_path / "c.safetensors", network, ABOUT)
    load_checkpoint(tmp_path / "c.safetensors", other)
    assert read_about(tmp_path / "c.safetensors") == ABOUT
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_nothing_in_it_changes_from_run_to_run(tmp_path: Path) -> None:
    network = _network()
    hashes = set()
    for i in range(5):
        save_checkpoint(tmp_path / f"{i}.safetensors", network, ABOUT)
        hashes.add(file_sha256(tmp_path / f"{i}.safetensors"))
    assert len(hashes) == 1


def test_what_is_no_checkpoint_or_of_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match=r"c.safetensors is missing; bin/train.sh makes it"):
        read_about(path)
    path.write_text("no checkpoint")
    with pytest.raises(UserError, match="not a checkpoint of this pipeline"):
        read_about(path)
    save_checkpoint(path, _network("timm/resnet18"), ABOUT)
    with pytest.raises(UserError, match="of another network: it differs at backbone"):
        load_checkpoint(path, _network())
