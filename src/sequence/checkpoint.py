"""What a sequence model's checkpoint records: enough to build its network again."""

from dataclasses import dataclass
from typing import Any

from src.config import Config, SequenceConfig
from src.files.run import sequence_name
from src.sequence.series import EmbeddedSlices
from src.train.checkpoint import CheckpointMetadata, settings_hash


@dataclass(frozen=True)
class SequenceMetadata(CheckpointMetadata):
    """What a sequence model's checkpoint records of itself."""

    model: dict[str, Any]  # name, width, layers, heads
    order: str
    dimensions: int  # of an embedding
    classifier: str
    classifier_epoch: int
    classifier_checkpoint: str  # SHA-256
    components: int | None  # of the PCA that embeddings were reduced by

    @classmethod
    def of(cls, config: SequenceConfig, embedded: EmbeddedSlices, epoch: int) -> "SequenceMetadata":
        """What training with a conf of `over_classifier` records. embedded: the training slices."""
        provenance = embedded.embeddings.provenance
        return cls(
            conf=config.name,
            fold=embedded.fold,
            epoch=epoch,
            data_fingerprint=embedded.fingerprint(),
            model=config.model.model_dump(),
            order=config.order,
            dimensions=embedded.embeddings.dimensions,
            classifier=provenance.conf,
            classifier_epoch=provenance.epoch,
            classifier_checkpoint=provenance.checkpoint,
            components=provenance.components,
            settings=settings_hash(config),
        )


def over_classifier(config: SequenceConfig, classifier: Config) -> SequenceConfig:
    """A sequence model's conf under the name that it has over a classifier: `efficientnet-b2+gru`."""
    return config.model_copy(update={"name": sequence_name(classifier.name, config.name)})
