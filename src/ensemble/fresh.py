"""Check that the predictions of a second stage were made over the current checkpoints of their classifiers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from src.errors import UserError
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import Predictions
from src.files.provenance import Provenance


def require_fresh(predictions: Sequence[Predictions], layout: Layout) -> None:
    """Raise UserError for a sequence model's predictions over a classifier that has been trained again since.

    If the classifier's checkpoints are gone, the predictions cannot be checked and are accepted.
    """
    sha256 = cache(file_sha256)
    for each in predictions:
        checkpoints = _classifier_checkpoints(each.provenance, layout)
        if not checkpoints or each.provenance is None:
            continue
        if each.provenance.classifier_checkpoint not in {sha256(path) for path in checkpoints}:
            raise UserError(
                f"{each.path} is stale: it was predicted over another checkpoint of the classifier than those in "
                f"{checkpoints[0].parent}",
                step="sequence",
            )


def _classifier_checkpoints(provenance: Provenance | None, layout: Layout) -> list[Path]:
    """The checkpoints of the classifier that a sequence model is over, in its fold; none for a classifier."""
    if provenance is None:
        return []
    ends = [at for at, letter in enumerate(provenance.conf) if letter == "+"]
    folders = [layout.fold(provenance.conf[:end], provenance.fold).path for end in ends]
    return sorted(path for folder in folders for path in folder.glob("epoch*.safetensors"))
