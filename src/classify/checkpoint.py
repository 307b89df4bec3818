"""What a classifier's checkpoint records, and whether it is the one that is asked for."""

from dataclasses import asdict, dataclass
from pathlib import Path

from src.config import Config
from src.errors import UserError
from src.train.checkpoint import CheckpointMetadata, read_data_fingerprint, read_metadata


@dataclass(frozen=True)
class ClassifierMetadata(CheckpointMetadata):
    """What a classifier's checkpoint records of itself: enough to build its network again."""

    architecture: str
    image_size: int
    neighbours: int
    windows: list[list[float]]  # level and width in HU

    @classmethod
    def of(cls, config: Config, fold: int, epoch: int, data_fingerprint: str) -> "ClassifierMetadata":
        """What training with a conf records. data_fingerprint: LabelledSlices.fingerprint of the training slices."""
        return cls(
            conf=config.name,
            fold=fold,
            epoch=epoch,
            data_fingerprint=data_fingerprint,
            architecture=config.network.architecture,
            image_size=config.image_size,
            neighbours=config.neighbours,
            windows=[[window.level, window.width] for window in config.windows],
        )


def check_checkpoint(checkpoint: Path, config: Config, fold: int, epoch: int) -> None:
    """Raise UserError where a checkpoint is missing, or of another conf, fold or epoch."""
    found = read_metadata(checkpoint, ClassifierMetadata)
    for key, value in asdict(ClassifierMetadata.of(config, fold, epoch, found.data_fingerprint)).items():
        if getattr(found, key) != value:
            raise UserError(f"{checkpoint} was trained with {key} {getattr(found, key)}, expected {value}")


def check_unseen(checkpoint: Path, training: str) -> None:
    """Raise UserError for a network that was trained on other slices than the fold's: it may have seen the rest.

    training: LabelledSlices.fingerprint of all slices but the fold's.
    """
    if read_data_fingerprint(checkpoint) != training:
        folder = checkpoint.parent
        raise UserError(
            f"{checkpoint} was trained on other slices, folds or labels than {folder.name} has now, so its "
            f"predictions would not be out of fold; delete {folder}",
            step="train",
        )
