"""Sequence models as they are kept: under which name, and what their checkpoints say of themselves."""

from dataclasses import dataclass

from src.classify.checkpoint import Trained
from src.config import Config, SequenceConfig
from src.sequence.embedded import Embedded


@dataclass(frozen=True)
class About(Trained):
    """What a sequence model's checkpoint is of."""

    model: str
    order: str
    dimensions: int  # of an embedding

    @classmethod
    def of(cls, config: SequenceConfig, embedded: Embedded, epoch: int) -> "About":
        """What training with a conf of `over` makes."""
        return cls(
            conf=config.name,
            fold=embedded.fold,
            epoch=epoch,
            trained_on=embedded.fingerprint(),
            model=config.model.name,
            order=config.order,
            dimensions=embedded.embeddings.dimensions,
        )


def over(config: SequenceConfig, classifier: Config) -> SequenceConfig:
    """A sequence model's conf under the name that it has over a classifier: `efficientnet-b2+gru`."""
    return config.model_copy(update={"name": f"{classifier.name}+{config.name}"})
