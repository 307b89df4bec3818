"""Checkpoints: the weights after an epoch, as safetensors that say what they are."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from src.classify.network import Network
from src.config import Config
from src.errors import UserError, first_few
from src.files.atomic import replacing


@dataclass(frozen=True)
class About:
    """What a checkpoint is of. Nothing here changes from run to run."""

    conf: str
    architecture: str
    image_size: int
    neighbours: int
    windows: list[list[float]]  # level and width in HU
    fold: int
    epoch: int
    trained_on: str  # split.fingerprint of the training slices

    @classmethod
    def of(cls, config: Config, fold: int, epoch: int, trained_on: str) -> "About":
        """What training with a conf makes."""
        windows = [[window.level, window.width] for window in config.windows]
        return cls(
            config.name,
            config.network.architecture,
            config.image_size,
            config.neighbours,
            windows,
            fold,
            epoch,
            trained_on,
        )


def save_checkpoint(path: Path, network: Network, about: About) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        # one metadata key: safetensors keeps no order among several, and equal weights must give equal files
        save_file(tensors, temporary, metadata={"about": json.dumps(asdict(about), sort_keys=True)})


def read_about(path: Path) -> About:
    """What a checkpoint is of. Raises UserError where it is missing or no checkpoint of this pipeline."""
    if not path.is_file():
        raise UserError(f"{path} is missing; bin/train.sh makes it")
    try:
        with safe_open(path, framework="pt") as file:
            return About(**json.loads(file.metadata()["about"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this pipeline ({error}); train this fold again") from error


def load_checkpoint(path: Path, network: Network) -> None:
    """Load a checkpoint's weights into a network. Raises UserError where they do not fit."""
    read_about(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    own = network.state_dict()
    differing = (tensors.keys() ^ own.keys()) | {
        name for name in tensors.keys() & own.keys() if tensors[name].shape != own[name].shape
    }
    if differing:
        raise UserError(f"{path} is of another network: it differs at {first_few(sorted(differing))}")
    network.load_state_dict(tensors)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
