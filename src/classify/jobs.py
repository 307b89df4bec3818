"""Which networks predict or embed which slices, planned so that each slice is read once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.classify.checkpoint import check_checkpoint, check_unseen
from src.classify.dataset import read_folds
from src.classify.inputs import SliceInputs, find_inputs
from src.classify.tta import tta_name
from src.config import Config
from src.files.checksum import file_sha256
from src.files.layout import FoldFolder, Layout
from src.files.predictions import read_provenance
from src.files.provenance import Provenance


@dataclass(frozen=True)
class Job:
    """What one network has to do with some slices.

    finished: whether `output` is there, with the same provenance.
    """

    checkpoint: Path
    provenance: Provenance  # of the output
    output: Path
    finished: bool


@dataclass(frozen=True)
class JobGroup:
    """Slices, and the jobs of all networks that read them. name: for people; key: for a file's name."""

    name: str
    key: str
    inputs: SliceInputs
    jobs: list[Job]

    @property
    def due(self) -> list[Job]:
        """The jobs that are left."""
        return [job for job in self.jobs if not job.finished]


def plan_predictions(
    config: Config, folds: Sequence[int], splits: Sequence[str], epochs: Sequence[int], layout: Layout
) -> list[JobGroup]:
    """A group for each fold's held-out slices ("valid" in splits), one for the test set by the networks of all folds.

    Raises UserError for checkpoints that are missing, of another conf or fold, or, for "valid", trained on other slices
    than their fold leaves them.
    """
    groups = []
    for split in splits:
        groups += _valid(config, folds, epochs, layout) if split == "valid" else _test(config, folds, epochs, layout)
    return groups


def _valid(config: Config, folds: Sequence[int], epochs: Sequence[int], layout: Layout) -> list[JobGroup]:
    slices, in_fold = read_folds(layout, folds, config.neighbours)
    groups = []
    for fold in folds:
        folder, held_out = layout.fold(config.name, fold), slices.take(in_fold == fold)
        fingerprint = held_out.inputs.fingerprint()
        jobs = [_job(config, folder, fold, "valid", epoch, fingerprint) for epoch in epochs]
        unseen = slices.take(in_fold != fold).fingerprint()
        for job in jobs:
            check_unseen(job.checkpoint, unseen, held_out.patients)
        key = f"valid_fold{fold}_epochs{_joined(epochs)}"
        groups.append(JobGroup(f"{config.name} fold {fold} valid", key, held_out.inputs, jobs))
    return groups


def _test(config: Config, folds: Sequence[int], epochs: Sequence[int], layout: Layout) -> list[JobGroup]:
    inputs = find_inputs(layout, "test", config.neighbours)
    fingerprint = inputs.fingerprint()
    jobs = [
        _job(config, layout.fold(config.name, fold), fold, "test", epoch, fingerprint)
        for fold in folds
        for epoch in epochs
    ]
    key = f"test_folds{_joined(folds)}_epochs{_joined(epochs)}"
    return [JobGroup(f"{config.name} test", key, inputs, jobs)]


def _job(config: Config, folder: FoldFolder, fold: int, split: str, epoch: int, slices: str) -> Job:
    checkpoint, output = folder.checkpoint(epoch), folder.predictions(split, epoch)
    check_checkpoint(checkpoint, config, fold, epoch)
    provenance = Provenance(
        conf=config.name,
        fold=fold,
        epoch=epoch,
        checkpoint=file_sha256(checkpoint),
        split=split,
        slices=slices,
        tta=tta_name(config),
    )
    return Job(checkpoint, provenance, output, finished=read_provenance(output) == provenance)


def _joined(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))
