"""Which checkpoints predict which slices, so that each slice is read once for all of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from src.classify.checkpoint import About, file_sha256, read_about, read_trained_on
from src.classify.split import read_folds
from src.classify.stacks import Stacks, find_stacks
from src.classify.views import view_name
from src.config import Config
from src.errors import UserError
from src.files.layout import FoldFolder, Layout
from src.files.predictions import Origin, read_origin


@dataclass(frozen=True)
class Job:
    """What one network predicts: its checkpoint, what its prediction file will say of itself, and that file."""

    checkpoint: Path
    origin: Origin
    output: Path

    @property
    def finished(self) -> bool:
        """Whether the file is there, by the same weights, of the same slices, in the same views."""
        return read_origin(self.output) == self.origin


@dataclass(frozen=True)
class Pass:
    """Slices, and all networks that predict them. name: for people; word: for a file's name."""

    name: str
    word: str
    stacks: Stacks
    jobs: list[Job]


def plan_passes(
    config: Config, folds: Sequence[int], splits: Sequence[str], epochs: Sequence[int], layout: Layout
) -> list[Pass]:
    """One pass for each fold's held-out slices ("valid" in splits), one for the test set by the networks of all folds.

    Raises UserError for checkpoints that are missing, of another conf or fold, or, for "valid", trained on other slices
    than their fold leaves them.
    """
    passes = []
    for split in splits:
        passes += _valid(config, folds, epochs, layout) if split == "valid" else _test(config, folds, epochs, layout)
    return passes


def _valid(config: Config, folds: Sequence[int], epochs: Sequence[int], layout: Layout) -> list[Pass]:
    slices, in_fold = read_folds(layout, folds, config.neighbours)
    passes = []
    for fold in folds:
        folder, stacks = layout.fold(config.name, fold), slices.take(in_fold == fold).stacks
        fingerprint = stacks.fingerprint()
        jobs = [_job(config, folder, fold, "valid", epoch, fingerprint) for epoch in epochs]
        unseen = slices.take(in_fold != fold).fingerprint()
        for job in jobs:
            check_unseen(job.checkpoint, unseen)
        word = f"valid_fold{fold}_epochs{_word(epochs)}"
        passes.append(Pass(f"{config.name} fold {fold} valid", word, stacks, jobs))
    return passes


def _test(config: Config, folds: Sequence[int], epochs: Sequence[int], layout: Layout) -> list[Pass]:
    stacks = find_stacks(layout, "test", config.neighbours)
    fingerprint = stacks.fingerprint()
    jobs = [
        _job(config, layout.fold(config.name, fold), fold, "test", epoch, fingerprint)
        for fold in folds
        for epoch in epochs
    ]
    return [Pass(f"{config.name} test", f"test_folds{_word(folds)}_epochs{_word(epochs)}", stacks, jobs)]


def _job(config: Config, folder: FoldFolder, fold: int, split: str, epoch: int, slices: str) -> Job:
    checkpoint = folder.checkpoint(epoch)
    check_checkpoint(checkpoint, config, fold, epoch)
    origin = Origin(config.name, fold, epoch, file_sha256(checkpoint), split, slices, views_of(config))
    return Job(checkpoint, origin, folder.predictions(split, epoch))


def views_of(config: Config) -> str:
    """Test-time augmentation in words, as prediction files record it."""
    return " ".join(view_name(view) for view in config.tta)


def check_checkpoint(checkpoint: Path, config: Config, fold: int, epoch: int) -> None:
    """Raise UserError where a checkpoint is missing, or of another conf, fold or epoch."""
    about = read_about(checkpoint, About)
    for key, value in asdict(About.of(config, fold, epoch, about.trained_on)).items():
        if getattr(about, key) != value:
            raise UserError(f"{checkpoint} was trained with {key} {getattr(about, key)}, expected {value}")


def check_unseen(checkpoint: Path, training: str) -> None:
    """Raise UserError for a network that was trained on other slices than the fold's: it may have seen the rest.

    training: Slices.fingerprint of all slices but the fold's.
    """
    if read_trained_on(checkpoint) != training:
        folder = checkpoint.parent
        raise UserError(
            f"{checkpoint} was trained on other slices, folds or labels than {folder.name} has now, so its "
            f"predictions would not be out of fold; delete {folder} and run bin/train.sh again"
        )


def _word(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))
