"""Checkpoints: the weights after an epoch, as safetensors that say what they are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from src.config import TrainingConf
from src.documents import parse_json
from src.errors import UserError, first_few
from src.files.checksum import UNSEALED, read_sealed, write_sealed

# Names in files that differ from those here; the files of earlier versions have them.
_NAMES_IN_FILES = {"data_fingerprint": "trained_on"}


@dataclass(frozen=True)
class CheckpointMetadata:
    """What every checkpoint records of itself. The same training records the same in every run."""

    conf: str
    fold: int
    epoch: int
    data_fingerprint: str  # of what it was trained on
    settings: str = field(default="", kw_only=True)  # `settings_hash` of the conf; none in files of earlier versions


# Keys of a conf that weights do not depend on: a half-trained fold may go on with others.
HARMLESS_KEYS = {"workers", "save_steps", "tta"}


def settings_hash(config: TrainingConf) -> str:
    """A hash of the keys of a conf that weights depend on."""
    values = config.model_dump(mode="json", exclude=HARMLESS_KEYS)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()  # in whatever order they were given


_Metadata = TypeVar("_Metadata", bound=CheckpointMetadata)


def save_checkpoint(path: Path, network: nn.Module, metadata: CheckpointMetadata) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    record = {_NAMES_IN_FILES.get(name, name): value for name, value in asdict(metadata).items()}
    # one metadata key: safetensors keeps no order among several, and equal weights must give equal files
    about = json.dumps(record | {"checksum": UNSEALED}, sort_keys=True)
    write_sealed(path, save(tensors, metadata={"about": about}))


def read_metadata(path: Path, kind: type[_Metadata], *, step: str = "train") -> _Metadata:
    """Read what a checkpoint records. step: of the pipeline, the one that makes it.

    Raises UserError where it is missing or no checkpoint of that kind."""
    record = _record(_read(path, step), path)
    in_code = {name: key for key, name in _NAMES_IN_FILES.items()}
    try:
        return kind(**{in_code.get(name, name): value for name, value in record.items()})
    except TypeError as error:
        raise UserError(
            f"{path} is of another kind of network, or of an earlier version ({error})", step=step
        ) from error


def read_data_fingerprint(path: Path, *, step: str = "train") -> str:
    """The fingerprint of what a checkpoint of any kind was trained on. Raises UserError as `read_metadata`."""
    return str(_record(_read(path, step), path)["trained_on"])


def is_foreign(path: Path) -> bool:
    """Whether a file with weights was not written by this pipeline."""
    with path.open("rb") as file:
        start = file.read(8)
        header = file.read(min(int.from_bytes(start, "little"), 1 << 24))
    return b'"__metadata__":{"about":' not in header


def _read(path: Path, step: str) -> bytes:
    return read_sealed(path, advice=f"; delete {path.parent} to train this fold again", step=step)


def _record(data: bytes, path: Path) -> dict[str, Any]:
    """What a checkpoint records, from its bytes: a safetensors file begins with the length of its JSON header."""
    try:
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        record: dict[str, Any] = parse_json(header["__metadata__"]["about"])
        del record["checksum"]
        return record | {"trained_on": record["trained_on"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this pipeline ({error}); train this fold again") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors by name. Raises UserError as `read_metadata`."""
    data = _read(path, "train")
    _record(data, path)
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this pipeline ({error}); train this fold again") from error
    return tensors


def load_checkpoint(path: Path, network: nn.Module) -> None:
    """Load a checkpoint's weights into a network. Raises UserError where they do not fit."""
    load_weights(network, read_weights(path), str(path))


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load all weights of a network. source: where they are from. Raises UserError where they do not fit."""
    own = network.state_dict()
    differing = (tensors.keys() ^ own.keys()) | {
        name for name in tensors.keys() & own.keys() if tensors[name].shape != own[name].shape
    }
    if differing:
        raise UserError(f"{source} is of another network: it differs at {first_few(sorted(differing))}")
    network.load_state_dict(tensors)
