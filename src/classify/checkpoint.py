"""What a classifier's checkpoint records, and whether it is the one that is asked for."""

import base64
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from src.classify.weights import IN_ORDER
from src.config import Config
from src.errors import UserError
from src.train.checkpoint import CheckpointMetadata, is_foreign, read_metadata, settings_hash


@dataclass(frozen=True)
class ClassifierMetadata(CheckpointMetadata):
    """What a classifier's checkpoint records of itself: enough to build its network again."""

    architecture: str
    image_size: int
    neighbours: int
    windows: list[list[float]]  # level and width in HU
    patients: str = ""  # `pack_patients` of all that it has seen, also by the weights that its training began with

    @classmethod
    def of(
        cls, config: Config, fold: int, epoch: int, data_fingerprint: str, patients: str = ""
    ) -> "ClassifierMetadata":
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
            patients=patients,
            settings=settings_hash(config),
        )


def pack_patients(patients: np.ndarray) -> str:
    """Numbers of patients (`patient_hashes`), each once and in order, as text."""
    return base64.b64encode(np.unique(patients).astype("<u8").tobytes()).decode()


def unpack_patients(text: str) -> np.ndarray:
    """The opposite of `pack_patients`: (P,) uint64."""
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


def seen_patients(pretrained: str) -> np.ndarray:
    """The patients that the weights a training begins with have seen: (P,); none where these are not of this pipeline.

    pretrained: `network.pretrained` of a conf.
    """
    path = Path(pretrained.removeprefix(IN_ORDER))
    if pretrained in ("imagenet", "none") or not path.is_file() or is_foreign(path):
        return np.empty(0, dtype=np.uint64)
    return unpack_patients(read_metadata(path, ClassifierMetadata).patients)


def check_checkpoint(checkpoint: Path, config: Config, fold: int, epoch: int) -> None:
    """Raise UserError where a checkpoint is missing, or of another conf, fold or epoch."""
    found = read_metadata(checkpoint, ClassifierMetadata)
    expected = ClassifierMetadata.of(config, fold, epoch, found.data_fingerprint, found.patients)
    expected = replace(expected, settings=found.settings)  # which prediction may change
    for key, value in asdict(expected).items():
        if getattr(found, key) != value:
            raise UserError(f"{checkpoint} was trained with {key} {getattr(found, key)}, expected {value}")


def check_unseen(checkpoint: Path, training: str, held_out: np.ndarray) -> None:
    """Raise UserError for a network that was trained on other slices than the fold's: it may have seen the rest.

    training: LabelledSlices.fingerprint of all slices but the fold's; held_out: the patients of these.
    """
    metadata = read_metadata(checkpoint, ClassifierMetadata)
    require_unseen(str(checkpoint), unpack_patients(metadata.patients), held_out)
    if metadata.data_fingerprint != training:
        folder = checkpoint.parent
        raise UserError(
            f"{checkpoint} was trained on other slices, folds or labels than {folder.name} has now, so its "
            f"predictions would not be out of fold; delete {folder}",
            step="train",
        )


def require_unseen(name: str, seen: np.ndarray, held_out: np.ndarray) -> None:
    """Raise UserError where a network has seen patients that are held out, itself or the weights it began with."""
    both = np.intersect1d(seen, held_out)
    if len(both):
        raise UserError(
            f"{name} was trained on {len(both)} of the {len(np.unique(held_out))} patients that this fold holds out, "
            "itself or by the weights that it began with; expected weights that have seen none of them"
        )
