"""Whether predictions were made by the checkpoints that there are now."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from src.errors import UserError
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import read_provenance


def require_fresh(predictions: Sequence[Path], layout: Layout) -> None:
    """Raise UserError for predictions by a checkpoint that has been replaced since, their own or their classifier's.

    If a checkpoint is gone, predictions cannot be compared with it, and are accepted.
    """
    sha256 = cache(file_sha256)
    for each in predictions:
        of = read_provenance(each)
        if of is None:
            continue
        step = "predict" if of.classifier is None else "sequence"
        own = layout.fold(of.conf, of.fold).checkpoint(of.epoch)
        if _differs(own, of.checkpoint, sha256):
            raise UserError(f"{each} is stale: it was predicted with another checkpoint than {own}", step=step)
        if of.classifier is None or of.classifier_epoch is None:
            continue
        over = layout.fold(of.classifier, of.fold).checkpoint(of.classifier_epoch)
        if _differs(over, of.classifier_checkpoint, sha256):
            raise UserError(f"{each} is stale: it was predicted over another checkpoint than {over}", step=step)


def _differs(checkpoint: Path, expected: str | None, sha256: Callable[[Path], str]) -> bool:
    return checkpoint.is_file() and sha256(checkpoint) != expected
