"""Checkpoints: the weights after an epoch, as safetensors that say what they are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from src.errors import UserError, first_few
from src.files.atomic import replacing

# Names in files that differ from those here; the files of earlier versions have them.
_NAMES_IN_FILES = {"data_fingerprint": "trained_on"}


@dataclass(frozen=True)
class CheckpointMetadata:
    """What every checkpoint records of itself. The same training records the same in every run."""

    conf: str
    fold: int
    epoch: int
    data_fingerprint: str  # of what it was trained on


_Metadata = TypeVar("_Metadata", bound=CheckpointMetadata)


def save_checkpoint(path: Path, network: nn.Module, metadata: CheckpointMetadata) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    record = {_NAMES_IN_FILES.get(name, name): value for name, value in asdict(metadata).items()}
    with replacing(path) as temporary:
        # one metadata key: safetensors keeps no order among several, and equal weights must give equal files
        save_file(tensors, temporary, metadata={"about": json.dumps(record, sort_keys=True)})


def read_metadata(path: Path, kind: type[_Metadata], *, step: str = "train") -> _Metadata:
    """Read what a checkpoint records. step: of the pipeline, the one that makes it.

    Raises UserError where it is missing or no checkpoint of that kind."""
    record = _read_record(path, step)
    in_code = {name: key for key, name in _NAMES_IN_FILES.items()}
    try:
        return kind(**{in_code.get(name, name): value for name, value in record.items()})
    except TypeError as error:
        raise UserError(
            f"{path} is of another kind of network, or of an earlier version ({error})", step=step
        ) from error


def read_data_fingerprint(path: Path, *, step: str = "train") -> str:
    """The fingerprint of what a checkpoint of any kind was trained on. Raises UserError as `read_metadata`."""
    return str(_read_record(path, step)["trained_on"])


def _read_record(path: Path, step: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing", step=step)
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["about"])
            return record | {"trained_on": record["trained_on"]}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of this pipeline ({error}); train this fold again") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors by name. Raises UserError as `read_metadata`."""
    _read_record(path, "train")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


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
