import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from src.classify.checkpoint import ClassifierMetadata
from src.classify.network import build_network
from src.config import Config
from src.errors import UserError
from src.files.checksum import file_sha256, write_sealed
from src.train.checkpoint import load_checkpoint, read_data_fingerprint, read_metadata, save_checkpoint


@pytest.fixture
def metadata(config: Config) -> ClassifierMetadata:
    return ClassifierMetadata.of(config, fold=1, epoch=2, data_fingerprint="t")


def test_round_trip_is_exact(config: Config, metadata: ClassifierMetadata, tmp_path: Path) -> None:
    network, other = build_network(config), build_network(config)
    save_checkpoint(tmp_path / "c.safetensors", network, metadata)
    load_checkpoint(tmp_path / "c.safetensors", other)
    assert read_metadata(tmp_path / "c.safetensors", ClassifierMetadata) == metadata
    assert read_data_fingerprint(tmp_path / "c.safetensors") == "t"
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["about"])["trained_on"] == "t"  # as earlier versions called it
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_nothing_in_it_changes_from_run_to_run(config: Config, metadata: ClassifierMetadata, tmp_path: Path) -> None:
    network = build_network(config)
    hashes = set()
    for i in range(5):
        save_checkpoint(tmp_path / f"{i}.safetensors", network, metadata)
        hashes.add(file_sha256(tmp_path / f"{i}.safetensors"))
    assert len(hashes) == 1


def test_what_is_no_checkpoint_or_of_another_network_is_named(
    config: Config, make_config: Callable[..., Config], metadata: ClassifierMetadata, tmp_path: Path
) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match=r"c.safetensors is missing") as missing:
        read_metadata(path, ClassifierMetadata)
    assert missing.value.step == "train"
    path.write_text("no checkpoint")
    with pytest.raises(UserError, match="has no checksum: it is damaged, or of an earlier version; delete"):
        read_metadata(path, ClassifierMetadata)
    write_sealed(path, b"no checkpoint")
    with pytest.raises(UserError, match="not a checkpoint of this pipeline"):
        read_metadata(path, ClassifierMetadata)
    save_checkpoint(path, build_network(make_config("network.architecture=timm/resnet18")), metadata)
    with pytest.raises(UserError, match="of another network: it differs at backbone"):
        load_checkpoint(path, build_network(config))
