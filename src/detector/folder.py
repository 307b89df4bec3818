"""The folder of a detector: what it records of itself, and files that are checked before they are used.

    detector.json            everything but the weights; its own checksum and those of the other files
    weights/*.safetensors    a file for each classifier and sequence model, with the networks of all folds and epochs;
                             and one for the distribution of the training set, where it is known
    MODEL_CARD.md            the same for people
    onnx/*.onnx              where they were asked for: a file for each network, complete by itself

Nothing in it is code, and nothing depends on when or where it was written.
"""

import errno
import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config import Config, SequenceConfig
from src.documents import parse_json
from src.ensemble.recipe import Fitted, Recipe
from src.errors import NotEnoughDisk, UserError, first_few
from src.files.atomic import replacing_folder
from src.files.checksum import file_sha256
from src.files.layout import Layout

FORMAT_VERSION = 1
WITH_MODELS = 2  # the format of a detector with ONNX models, which is otherwise the same
DESCRIPTION = "detector.json"
CARD = "MODEL_CARD.md"
DISTRIBUTION = "training_distribution"  # the name of its file of weights

PRETRAINED = Path(__file__).parents[2] / "model" / "pretrained"  # made by bin/pretrain.sh

_log = logging.getLogger(__name__)

Weights = dict[str, dict[str, torch.Tensor]]  # of each classifier and sequence model, by prefixed names

_UNSET = "0" * 64
_MOST_BYTES = 1 << 26  # of the description; isotonic calibrations take some megabytes at most


@dataclass(frozen=True)
class Network:
    """One network of a detector. name: of its classifier or sequence model; checkpoint: SHA-256 of what it was."""

    name: str
    fold: int
    epoch: int
    checkpoint: str
    data_fingerprint: str

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with."""
        return f"fold{self.fold}.epoch{self.epoch}.{self.checkpoint[:12]}/"


@dataclass(frozen=True)
class Member:
    """A member of the ensemble: the mean over the networks of all its folds.

    networks: of a classifier, or of a sequence model, each with the classifier's network of the same fold.
    """

    name: str
    networks: list[Network]
    classifiers: list[Network]  # those that networks of a sequence model read the embeddings of; else empty


@dataclass(frozen=True)
class SequenceModel:
    """A sequence model: its conf, the classifier that it is over, the size of an embedding, whether that is by PCA."""

    config: SequenceConfig
    classifier: str
    dimensions: Annotated[int, Field(ge=1, le=1 << 16)]
    components: Annotated[int, Field(ge=1, le=1 << 16)] | None


@dataclass(frozen=True)
class DistanceLimits:
    """How far, by a classifier's network, slices may lie from the training set: see training_distance.py.

    slices: the limit of a slice's distance; series: of the fraction of a series' slices that are farther.
    """

    network: Network
    slices: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    series: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Description:
    """All that a detector is, but for its weights.

    operating_points: thresholds by level ("slice", "study"), name and label, None where out-of-fold predictions give
    none. facts: out-of-fold figures and provenance, for people. distance: None where it is not known.
    """

    classifiers: dict[str, Config]
    sequences: dict[str, SequenceModel]
    members: list[Member]
    recipe: Recipe
    numbers: dict[str, Any]
    operating_points: dict[str, dict[str, dict[str, float | None]]]
    facts: dict[str, Any]
    distance: DistanceLimits | None = None

    @property
    def fitted(self) -> Fitted:
        """The recipe with its numbers."""
        return Fitted.from_numbers(self.recipe, [member.name for member in self.members], self.numbers)

    @property
    def notice(self) -> str:
        """What must be known with each result: the first line of what its makers say about it; mostly none."""
        return str(self.facts.get("about", "")).partition("\n")[0]

    @property
    def weights(self) -> list[str]:
        """What it has a file of weights for."""
        return [*self.classifiers, *self.sequences, *([DISTRIBUTION] if self.distance is not None else [])]

    @property
    def networks(self) -> list[Network]:
        """All networks, each once, however many members share it."""
        found = (network for member in self.members for network in (*member.classifiers, *member.networks))
        return list(dict.fromkeys(found))


_DESCRIPTION = TypeAdapter(Description)


def weights_file(name: str) -> str:
    """The file with the weights of all networks of a classifier or sequence model."""
    return f"weights/{name}.safetensors"


def model_files(networks: Sequence[Network]) -> dict[Network, str]:
    """The ONNX model of each network; two of one name, fold and epoch are told apart by their checkpoints."""
    plain = {each: f"onnx/{each.name}.fold{each.fold}.epoch{each.epoch}" for each in networks}
    count = Counter(plain.values())
    return {
        each: f"{stem}.{each.checkpoint[:12]}.onnx" if count[stem] > 1 else f"{stem}.onnx"
        for each, stem in plain.items()
    }


def find_detector(layout: Layout) -> Path:
    """The detector that was trained under a root; where there is none, the one in the box, which is told."""
    if (layout.detector / DESCRIPTION).is_file() or not (PRETRAINED / DESCRIPTION).is_file():
        return layout.detector
    _log.warning("%s is not there; the detector in the box reads: %s", layout.detector, PRETRAINED)
    return PRETRAINED


def require_place(folder: Path) -> None:
    """Raise UserError where something else than a detector would be replaced."""
    if folder.is_dir() and ((folder / DESCRIPTION).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise UserError(f"{folder} is there and is no detector; expected a new folder, or a detector to replace")


def write_folder(
    folder: Path,
    description: Description,
    weights: Weights,
    card: str,
    models: Iterable[tuple[str, bytes]] | None = None,
) -> None:
    """Write a detector, atomically. Raises UserError as `require_place`, NotEnoughDisk and OSError.

    models: names, all of `model_files`, and contents of ONNX models, each made when its turn comes. None: the detector
    has none.
    """
    require_place(folder)
    folder.resolve().parent.mkdir(parents=True, exist_ok=True)
    needed, free = size_of(weights, with_models=models is not None), shutil.disk_usage(folder.resolve().parent).free
    if needed > free:
        raise NotEnoughDisk(f"{folder} will take {needed / 1e6:.1f} MB, and its disk has {free / 1e6:.1f} MB free")
    with replacing_folder(folder) as temporary:
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / "weights").mkdir()
        for name, tensors in weights.items():
            _save(tensors, temporary / weights_file(name))
            # safetensors makes files that only their owner may read, whatever the umask
            shutil.copymode(temporary / CARD, temporary / weights_file(name))
        if models is not None:
            (temporary / "onnx").mkdir()
        for name, model in models or ():
            (temporary / name).write_bytes(model)
        record = {
            "format": FORMAT_VERSION if models is None else WITH_MODELS,
            "sha256": _UNSET,
            "files": {name: file_sha256(temporary / name) for name in _files_of(description, models is not None)},
            **_DESCRIPTION.dump_python(description, mode="json"),
        }
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        # its own checksum, made with zeros in its place
        text = text.replace(_UNSET, hashlib.sha256(text.encode()).hexdigest(), 1)
        (temporary / DESCRIPTION).write_text(text, encoding="utf-8")


def size_of(weights: Weights, *, with_models: bool = False) -> int:
    """The bytes that weights take, in memory and on disk. with_models: also those of ONNX models, nearly."""
    size = sum(tensor.nbytes for tensors in weights.values() for tensor in tensors.values())
    return size * (2 if with_models else 1)


def read_folder(folder: Path) -> tuple[Description, Weights]:
    """Read a detector: (description, weights). Raises UserError as `read_description` and `read_weights`."""
    description, _ = read_description(folder)
    return description, read_weights(folder, description)


def read_description(folder: Path) -> tuple[Description, bool]:
    """Read what a detector is, all its files compared with their checksums: (description, whether it has ONNX models).

    Raises UserError where the folder is no detector, is of another format, or a file is missing or damaged.
    """
    record = _read_record(folder)
    files, has_models = record.pop("files"), record.pop("format") == WITH_MODELS
    try:
        description = _DESCRIPTION.validate_python(record)
        _check(description)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is no detector of this version ({_first(error)})") from error
    if sorted(files) != _files_of(description, has_models):
        raise UserError(f"{folder / DESCRIPTION} lists other files than the detector has: {first_few(sorted(files))}")
    for name, sha256 in files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}: it was not copied whole", step="export")
        if file_sha256(folder / name) != sha256:
            raise UserError(
                f"{folder / name} is damaged: it does not have the checksum in {DESCRIPTION}", step="export"
            )
    return description, has_models


def read_weights(folder: Path, description: Description) -> Weights:
    """Read the weights of a detector whose description was read. Raises UserError as `read_tensors`."""
    return {name: read_tensors(folder, name) for name in description.weights}


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Read one of a detector's files of weights. Raises UserError where it cannot be read."""
    try:
        return load_file(folder / weights_file(name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder} has weights that cannot be read ({_first(error)})") from error


def _read_record(folder: Path) -> dict[str, Any]:
    """What detector.json holds, its checksum and format compared, less the checksum."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} is no detector: it lacks {DESCRIPTION}", step="export")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{path} is damaged: it has more than {_MOST_BYTES} bytes", step="export")
    data = path.read_bytes()
    try:
        record = dict(parse_json(data))
        version, sha256 = int(record["format"]), str(record.pop("sha256"))
        record["files"] = {str(name): str(digest) for name, digest in record["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})", step="export") from error
    if hashlib.sha256(data.replace(sha256.encode(), _UNSET.encode(), 1)).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: it does not have its own checksum", step="export")
    if version not in (FORMAT_VERSION, WITH_MODELS):
        newer = "newer" if version > WITH_MODELS else "older"
        raise UserError(
            f"{folder} is a detector of a {newer} format, {version}; this version reads formats {FORMAT_VERSION} and "
            f"{WITH_MODELS}"
        )
    return record


def _check(description: Description) -> None:
    """Raise ValueError or KeyError where the parts of a description do not fit together."""
    names = description.weights
    unsafe = [name for name in names if name in ("", ".", "..") or re.search(r"[/\\\0]", name)]
    if len(set(names)) != len(names):
        raise ValueError(f"names of weights that are used twice: {first_few(sorted(names))}")
    if unsafe or not description.members:
        raise ValueError(f"no members, or names that are no file names: {first_few(unsafe)}")
    for member in description.members:
        second_stage = bool(member.classifiers)
        if not member.networks or (second_stage and len(member.classifiers) != len(member.networks)):
            raise ValueError(
                f"{member.name} has {len(member.networks)} networks, {len(member.classifiers)} classifiers"
            )
        kind: Mapping[str, object] = description.sequences if second_stage else description.classifiers
        unknown = [each.name for each in member.networks if each.name not in kind]
        unknown += [each.name for each in member.classifiers if each.name not in description.classifiers]
        if unknown:
            raise ValueError(f"{member.name} has networks of unknown confs: {first_few(unknown)}")
    if description.distance is not None and description.distance.network not in {
        classifier for member in description.members for classifier in member.classifiers
    }:
        raise ValueError("the distance from the training set is of a network that gives no embeddings")
    _ = description.fitted  # which checks the recipe and its numbers


def _files_of(description: Description, with_models: bool) -> list[str]:
    """All files of a detector but its description."""
    weights = map(weights_file, description.weights)
    return sorted([CARD, *weights, *(model_files(description.networks).values() if with_models else ())])


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(errno.EIO, str(error), str(path)) from error


def _first(error: Exception) -> str:
    """An error in one line; of several that pydantic finds, the first."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
