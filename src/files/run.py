"""Which prediction files belong to a run of the pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.files.layout import Layout

MEMBERS = ("last", "cnn", "sequence", "all")


@dataclass(frozen=True)
class Run:
    """What a run of the pipeline predicts with.

    classifiers: names of confs; epochs: theirs, whose checkpoints predict; sequences: names of sequence models' confs,
    each with the epoch whose checkpoint predicts.
    """

    layout: Layout
    classifiers: Sequence[str]
    folds: Sequence[int]
    epochs: Sequence[int]
    sequences: Mapping[str, int] = field(default_factory=dict)

    def prediction_files(self, split: str, members: str) -> tuple[list[Path], int]:
        """Find the run's prediction files of a split: (existing files, number of expected files).

        split: "valid" (out-of-fold) or "test". members: one of MEMBERS, see `stages`.
        """
        expected = [
            self.layout.fold(name, fold).predictions(split, epoch)
            for stages in self.stages(members).values()
            for fold in self.folds
            for name, epoch in stages
        ]
        return [path for path in expected if path.is_file()], len(expected)

    def stages(self, members: str) -> dict[str, list[tuple[str, int]]]:
        """The members that stand for each classifier, by name and epoch.

        members: "cnn": the classifier's epochs; "sequence": the sequence models over it; "all": both, but only sequence
        models that have been started; "last": its last stage, which is the sequence models that have predicted both
        splits of all folds, or its own epochs where there are none.
        """
        return {classifier: self._stages(classifier, members) for classifier in self.classifiers}

    def _stages(self, classifier: str, members: str) -> list[tuple[str, int]]:
        cnn = [(classifier, epoch) for epoch in self.epochs]
        models = self._models(classifier)
        match members:
            case "cnn":
                return cnn
            case "sequence":
                return models
            case "all":
                return cnn + [model for model in models if self.layout.conf(model[0]).is_dir()]
        return [model for model in models if self._is_complete(*model)] or cnn

    def incomplete_models(self) -> list[str]:
        """The sequence models that have been started but have not predicted both splits of all folds."""
        models = [model for classifier in self.classifiers for model in self._models(classifier)]
        started = [model for model in models if self.layout.conf(model[0]).is_dir()]
        return [name for name, epoch in started if not self._is_complete(name, epoch)]

    def _models(self, classifier: str) -> list[tuple[str, int]]:
        return [(sequence_name(classifier, sequence), epoch) for sequence, epoch in self.sequences.items()]

    def _is_complete(self, name: str, epoch: int) -> bool:
        folders = [self.layout.fold(name, fold) for fold in self.folds]
        return all(folder.predictions(split, epoch).is_file() for folder in folders for split in ("valid", "test"))


def sequence_name(classifier: str, sequence: str) -> str:
    """The name of a sequence model over a classifier: `efficientnet-b2+gru`."""
    return f"{classifier}+{sequence}"
