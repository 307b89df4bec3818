"""The manifest of a submission lists its inputs, so that the same files give the same bytes again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.documents import parse_json
from src.ensemble.recipe import Recipe
from src.errors import UserError
from src.evaluate.score import CLIP
from src.files.checksum import UNSEALED, file_sha256, read_sealed, write_sealed
from src.files.layout import Layout
from src.files.predictions import read_provenance
from src.files.rejected import rejected_file

FORMAT_VERSION = 1
_MOST_BYTES = 1 << 24  # a hundred predictions take a thousandth of it


@dataclass(frozen=True)
class Inputs:
    """Everything that determines a submission. root: folder of cache/, whose tables are used; None to use no tables."""

    predictions: list[Path]
    out_of_fold: list[Path]
    sample: Path
    root: Path | None
    recipe: Recipe

    @property
    def tables(self) -> list[Path]:
        """The preprocessed files that are read."""
        if self.root is None:
            return []
        layout = Layout(self.root)
        tables = [layout.table("train"), layout.table("test"), rejected_file(layout.store("test"))]
        return [*tables, layout.folds] if self.out_of_fold else tables


def write_manifest(
    path: Path,
    inputs: Inputs,
    submission: Path,
    losses: Mapping[tuple[str, int, int], float],
    facts: dict[str, Any],
) -> None:
    """Write what a submission was made of, atomically.

    losses: out-of-fold loss of each network, by conf, fold and epoch; facts: further entries, for readers only.
    """

    def about(prediction: Path) -> dict[str, Any]:
        provenance = read_provenance(prediction)
        if provenance is None:  # a file made elsewhere
            return _named(prediction)
        loss = losses.get((provenance.conf, provenance.fold, provenance.epoch))
        return {**_named(prediction), **provenance.record(), "out_of_fold_loss": loss}

    manifest = {
        "format": FORMAT_VERSION,
        "submission": _named(submission),
        "recipe": asdict(inputs.recipe),
        "clip": CLIP,
        "root": None if inputs.root is None else str(inputs.root.resolve()),
        "sample": _named(inputs.sample),
        "tables": [_named(each) for each in inputs.tables],
        "predictions": [about(each) for each in inputs.predictions],
        "out_of_fold_predictions": [about(each) for each in inputs.out_of_fold],
        **facts,
        "checksum": UNSEALED,
    }
    write_sealed(path, (json.dumps(manifest, indent=2) + "\n").encode())


def read_manifest(path: Path) -> tuple[Inputs, dict[str, str]]:
    """Read a manifest: (what the submission was made of, its `path` and the `sha256` of its bytes).

    Raises UserError if it is missing or not a manifest, and if an input is missing or has changed since.
    """
    said = read_record(path)
    try:
        if said["format"] != FORMAT_VERSION:
            raise UserError(f"{path} is a manifest of format {said['format']}; this version reads {FORMAT_VERSION}")
        files = [said["sample"], *said["tables"], *said["predictions"], *said["out_of_fold_predictions"]]
        expected = {Path(each["path"]): str(each["sha256"]) for each in files}
        inputs = Inputs(
            [Path(each["path"]) for each in said["predictions"]],
            [Path(each["path"]) for each in said["out_of_fold_predictions"]],
            Path(said["sample"]["path"]),
            None if said["root"] is None else Path(said["root"]),
            Recipe(**said["recipe"]),
        )
        made = {key: str(said["submission"][key]) for key in ("path", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a submission ({type(error).__name__}: {error})") from error
    for file, digest in expected.items():
        if not file.is_file():
            raise UserError(f"{file} is missing; {path} says that the submission was made of it")
        if file_sha256(file) != digest:
            raise UserError(f"{file} has changed since {path} was written, so the submission cannot be made again")
    return inputs, made


def read_submission_entry(path: Path) -> dict[str, str]:
    """The `path` and `sha256` that a manifest has of its submission. Raises UserError if it is no manifest."""
    said = read_record(path).get("submission")
    if not isinstance(said, dict) or not {"path", "sha256"} <= said.keys():
        raise UserError(f"{path} is no manifest of a submission: it does not name one")
    return {key: str(said[key]) for key in ("path", "sha256")}


def read_record(path: Path) -> dict[str, Any]:
    """All that a manifest says, its checksum compared; one of an earlier version has none.

    Raises UserError where it is missing, damaged or no manifest.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; expected the manifest of a submission", step="ensemble")
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{path} is no manifest of a submission: it has more than {_MOST_BYTES} bytes")
    data = read_sealed(path, advice="; make the submission again", foreign=True)
    try:
        return dict(parse_json(data))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no manifest of a submission ({type(error).__name__}: {error})") from error


def _named(path: Path) -> dict[str, Any]:
    return {"path": str(path.resolve()), "sha256": file_sha256(path)}
