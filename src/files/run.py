"""Which prediction files belong to a run of the pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.files.layout import Layout

MEMBERS = ("last", "cnn", "sequence", "all")


@dataclass(frozen=True)
class Run:
    """The names of classifiers' and of sequence models' confs, the folds, and the classifiers' epochs of a run."""

    layout: Layout
    classifiers: Sequence[str]
    folds: Sequence[int]
    epochs: Sequence[int]
    sequences: Sequence[str] = ()

    def prediction_files(self, split: str, members: str) -> tuple[list[Path], int]:
        """Find the run's prediction files of a split: (existing files, number of expected files).

        split: "valid" (out-of-fold) or "test". members, one of MEMBERS: "cnn": the classifiers' epochs; "sequence": the
        sequence models over them; "all": both, but only sequence models that have been started; "last": the last stage
        of each classifier, which is its sequence models that have predicted both splits of all folds, or its own epochs
        where there are none.
        """
        found: list[Path] = []
        wanted = 0
        for classifier in self.classifiers:
            for files in self._members(classifier, split, members):
                wanted += len(files)
                found += [file for file in files if file.is_file()]
        return found, wanted

    def _members(self, classifier: str, split: str, members: str) -> list[list[Path]]:
        """The expected files of a classifier's members, for each fold."""
        cnn = [
            [self.layout.fold(classifier, fold).predictions(split, epoch) for epoch in self.epochs]
            for fold in self.folds
        ]
        models = [sequence_name(classifier, sequence) for sequence in self.sequences]
        if members == "cnn":
            models = []
        elif members == "all":
            models = [model for model in models if self.layout.conf(model).is_dir()]
        elif members == "last":
            models = [model for model in models if self._is_complete(model)]
        with_cnn = members in ("cnn", "all") or (members == "last" and not models)
        sequence = [[self._of_sequence(model, fold, split) for model in models] for fold in self.folds]
        return [(own if with_cnn else []) + over for own, over in zip(cnn, sequence, strict=True)]

    def incomplete_models(self) -> list[str]:
        """The sequence models that have been started but have not predicted both splits of all folds."""
        models = [sequence_name(classifier, sequence) for classifier in self.classifiers for sequence in self.sequences]
        return [model for model in models if self.layout.conf(model).is_dir() and not self._is_complete(model)]

    def _is_complete(self, model: str) -> bool:
        return all(
            self._of_sequence(model, fold, split).is_file() for fold in self.folds for split in ("valid", "test")
        )

    def _of_sequence(self, model: str, fold: int, split: str) -> Path:
        """The prediction file of a sequence model, which predicts only with its last epoch."""
        folder = self.layout.fold(model, fold)
        epochs = [int(path.stem.rpartition("epoch")[2]) for path in folder.path.glob(f"{split}_epoch[0-9]*.parquet")]
        return folder.predictions(split, max(epochs, default=0))


def sequence_name(classifier: str, sequence: str) -> str:
    """The name of a sequence model over a classifier: `efficientnet-b2+gru`."""
    return f"{classifier}+{sequence}"
