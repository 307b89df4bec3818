"""Checkpoints: the weights after an epoch, as safetensors that say what they are."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from src.config import Config
from src.errors import UserError, first_few
from src.files.atomic import replacing


@dataclass(frozen=True)
class Trained:
    """What every checkpoint says of itself. Nothing here, nor in what is derived, changes from run to run."""

    conf: str
    fold: int
    epoch: int
    trained_on: str  # a word that changes when what it was trained on does


_About = TypeVar("_About", bound=Trained)


@dataclass(frozen=True)
class About(Trained):
    """What a classifier's checkpoint is of."""

    architecture: str
    image_size: int
    neighbours: int
    windows: list[list[float]]  # level and width in HU

    @classmethod
    def of(cls, config: Config, fold: int, epoch: int, trained_on: str) -> "About":
        """What training with a conf makes. trained_on: Slices.fingerprint of the training slices."""
        return cls(
            conf=config.name,
            fold=fold,
            epoch=epoch,
            trained_on=trained_on,
            architecture=config.network.architecture,
            image_size=config.image_size,
            neighbours=config.neighbours,
            windows=[[window.level, window.width] for window in config.windows],
        )


def save_checkpoint(path: Path, network: nn.Module, about: Trained) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        # one metadata key: safetensors keeps no order among several, and equal weights must give equal files
        save_file(tensors, temporary, metadata={"about": json.dumps(asdict(about), sort_keys=True)})


def read_about(path: Path, kind: type[_About], *, made_by: str = "bin/train.sh") -> _About:
    """What a checkpoint is of. Raises UserError where it is missing or no checkpoint of that kind."""
    said = _read_metadata(path, made_by)
    try:
        return kind(**said)
    except TypeError as error:
        raise UserError(f"{path} is of another kind of network ({error}); {made_by} makes it") from error


def read_trained_on(path: Path, *, made_by: str = "bin/train.sh") -> str:
    """What a checkpoint of any kind was trained on. Raises UserError where it is missing or no checkpoint."""
    return str(_read_metadata(path, made_by)["trained_on"])


def _read_metadata(path: Path, made_by: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; {made_by} makes it")
    try:
        with safe_open(path, framework="pt") as file:
            said: dict[str, Any] = json.loads(file.metadata()["about"])
            return said | {"trained_on": said["trained_on"]}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this pipeline ({error}); train this fold again") from error


def load_checkpoint(path: Path, network: nn.Module) -> None:
    """Load a checkpoint's weights into a network. Raises UserError where they do not fit."""
    _read_metadata(path, "bin/train.sh")
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
