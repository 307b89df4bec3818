"""The folder of a detector: what it records of itself, and files that are checked before they are used.

    detector.json            everything but the weights; its own checksum and those of the other files
    weights/*.safetensors    a file for each classifier and sequence model, with the networks of all folds and epochs
    MODEL_CARD.md            the same for people

Nothing in it is code, and nothing depends on when or where it was written.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from src.config import Config, SequenceConfig, parse_config
from src.ensemble.recipe import Fitted, Recipe
from src.errors import UserError, first_few
from src.files.atomic import replacing_folder
from src.files.checksum import file_sha256

FORMAT_VERSION = 1
DESCRIPTION = "detector.json"
CARD = "MODEL_CARD.md"

Weights = dict[str, dict[str, torch.Tensor]]  # of each classifier and sequence model, by prefixed names

_UNSET = "0" * 64


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
        return f"fold{self.fold}.epoch{self.epoch}/"


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
    dimensions: int
    components: int | None


@dataclass(frozen=True)
class Description:
    """All that a detector is, but for its weights.

    operating_points: thresholds by level ("slice", "study"), name and label, None where out-of-fold predictions give
    none. facts: out-of-fold figures and provenance, for people.
    """

    classifiers: dict[str, Config]
    sequences: dict[str, SequenceModel]
    members: list[Member]
    recipe: Recipe
    numbers: dict[str, Any]
    operating_points: dict[str, dict[str, dict[str, float | None]]]
    facts: dict[str, Any]

    @property
    def fitted(self) -> Fitted:
        """The recipe with its numbers."""
        return Fitted.from_numbers(self.recipe, [member.name for member in self.members], self.numbers)

    @property
    def networks(self) -> list[Network]:
        """All networks, each once, however many members share it."""
        found = (network for member in self.members for network in (*member.classifiers, *member.networks))
        return list(dict.fromkeys(found))


def weights_file(name: str) -> str:
    """The file with the weights of all networks of a classifier or sequence model."""
    return f"weights/{name}.safetensors"


def write_folder(folder: Path, description: Description, weights: Weights, card: str) -> None:
    """Write a detector, atomically."""
    with replacing_folder(folder) as temporary:
        (temporary / "weights").mkdir()
        for name, tensors in weights.items():
            save_file(tensors, temporary / weights_file(name))
        (temporary / CARD).write_text(card, encoding="utf-8")
        files = sorted([CARD, *map(weights_file, weights)])
        record = {
            "format": FORMAT_VERSION,
            "sha256": _UNSET,
            "files": {name: file_sha256(temporary / name) for name in files},
            **_to_record(description),
        }
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        # its own checksum, made with zeros in its place
        text = text.replace(_UNSET, hashlib.sha256(text.encode()).hexdigest(), 1)
        (temporary / DESCRIPTION).write_text(text, encoding="utf-8")


def read_folder(folder: Path) -> tuple[Description, Weights]:
    """Read a detector, each file compared with its checksum: (description, weights).

    Raises UserError where the folder is no detector, is of another format, or a file is missing or damaged.
    """
    record = _read_description(folder)
    for name, sha256 in record["files"].items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}: it was not copied whole", step="export")
        if file_sha256(folder / name) != sha256:
            raise UserError(
                f"{folder / name} is damaged: it does not have the checksum in {DESCRIPTION}", step="export"
            )
    try:
        description = _from_record(record)
        names = [*description.classifiers, *description.sequences]
        return description, {name: load_file(folder / weights_file(name)) for name in names}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{folder} is no detector of this version ({type(error).__name__}: {error})") from error


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder} is no detector: it lacks {DESCRIPTION}", step="export")
    data = path.read_bytes()
    try:
        record = json.loads(data)
        version, sha256, files = int(record["format"]), str(record["sha256"]), dict(record["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})", step="export") from error
    if hashlib.sha256(data.replace(sha256.encode(), _UNSET.encode(), 1)).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: it does not have its own checksum", step="export")
    if version != FORMAT_VERSION:
        newer = "newer" if version > FORMAT_VERSION else "older"
        raise UserError(
            f"{folder} is a detector of a {newer} format, {version}; this version reads format {FORMAT_VERSION}"
        )
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(f"{path} names files outside its folder: {first_few(outside)}")
    return record


def _to_record(description: Description) -> dict[str, Any]:
    return {
        "classifiers": {name: config.model_dump(mode="json") for name, config in description.classifiers.items()},
        "sequences": {
            name: {
                "config": model.config.model_dump(mode="json"),
                "classifier": model.classifier,
                "dimensions": model.dimensions,
                "components": model.components,
            }
            for name, model in description.sequences.items()
        },
        "members": [asdict(member) for member in description.members],
        "recipe": asdict(description.recipe),
        "numbers": description.numbers,
        "operating_points": description.operating_points,
        "facts": description.facts,
    }


def _from_record(record: dict[str, Any]) -> Description:
    return Description(
        classifiers={
            name: parse_config(values, Config, f"{DESCRIPTION}: {name}")
            for name, values in record["classifiers"].items()
        },
        sequences={
            name: SequenceModel(
                parse_config(values["config"], SequenceConfig, f"{DESCRIPTION}: {name}"),
                str(values["classifier"]),
                int(values["dimensions"]),
                None if values["components"] is None else int(values["components"]),
            )
            for name, values in record["sequences"].items()
        },
        members=[
            Member(
                str(each["name"]),
                [Network(**network) for network in each["networks"]],
                [Network(**network) for network in each["classifiers"]],
            )
            for each in record["members"]
        ],
        recipe=Recipe(**record["recipe"]),
        numbers=record["numbers"],
        operating_points=record["operating_points"],
        facts=record["facts"],
    )
