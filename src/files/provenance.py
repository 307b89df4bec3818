"""Provenance: which network made predictions or embeddings, and of which slices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Fields whose names in files differ from those here, so that files of earlier versions can be read.
_NAMES_IN_FILES = {"data_fingerprint": "trained_on", "tta": "views"}


_OF_SEQUENCE_MODELS = ("classifier", "classifier_epoch", "classifier_checkpoint")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which network made a file, and of which slices. Files with the same provenance hold the same numbers."""

    conf: str
    fold: int  # held out when the network was trained
    epoch: int
    checkpoint: str  # SHA-256
    data_fingerprint: str | None = None  # of the network's training data; recorded only for embeddings
    split: str  # "valid" (out-of-fold) or "test"; for embeddings "train" (all folds) or "test"
    slices: str  # ImageStore.fingerprint, in the file's order
    tta: str  # test-time augmentation
    components: int | None = None  # number of principal components of embeddings; None: embeddings without PCA
    classifier: str | None = None  # the conf; this and the next two for predictions of a sequence model
    classifier_epoch: int | None = None
    classifier_checkpoint: str | None = None  # SHA-256; for predictions of a sequence model

    def record(self) -> dict[str, Any]:
        """Return what a file records: plain values under their names in files."""
        of_embeddings = self.data_fingerprint is not None
        applies = {
            "data_fingerprint": of_embeddings,
            "components": of_embeddings,
            **dict.fromkeys(_OF_SEQUENCE_MODELS, self.classifier is not None),
        }
        return {
            _NAMES_IN_FILES.get(name, name): value for name, value in asdict(self).items() if applies.get(name, True)
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Provenance":
        """Read what a file recorded; numbers may be strings. Raises KeyError, ValueError or TypeError if invalid."""
        values = {}
        for field in fields(cls):
            name = _NAMES_IN_FILES.get(field.name, field.name)
            if name in record or field.default is not None:
                values[field.name] = record[name]
        integers = ("fold", "epoch", "components", "classifier_epoch")
        numbers = {key: int(values[key]) for key in integers if values.get(key) is not None}
        return cls(**(values | numbers))
