"""The paths of all files under the root folder, which holds input/, cache/, model/ and submission/."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths of the pipeline's files. `split` is "train" or "test"."""

    root: Path

    def table(self, split: str) -> Path:
        """A table with a row per ID: labels, tags, position in its series."""
        return self.root / "cache" / f"{split}.parquet"

    def store(self, split: str) -> Path:
        """The image store's folder."""
        return self.root / "cache" / split

    @property
    def folds(self) -> Path:
        """A table with the fold of each training slice."""
        return self.root / "cache" / "folds.parquet"

    @property
    def audit(self) -> Path:
        """The report on leaks and data quality."""
        return self.root / "cache" / "audit.json"

    def fold(self, conf_name: str, fold: int) -> "FoldFolder":
        """The folder that training and prediction fill for one classifier and one fold."""
        return FoldFolder(self.conf(conf_name) / f"fold{fold}")

    def conf(self, conf_name: str) -> Path:
        """The folder that training and prediction fill for one classifier, or for one sequence model over it."""
        return self.root / "model" / conf_name

    @property
    def submission(self) -> Path:
        """The submission; its manifest and the out-of-fold predictions of the bag are beside it."""
        return self.root / "submission" / "submission.csv"

    @property
    def report(self) -> Path:
        """The report on all of it; its tables and charts are in the folder of the same name beside it."""
        return self.root / "submission" / "report.html"

    @property
    def timings(self) -> Path:
        """The folder in which stages note how long they took."""
        return self.root / "cache" / "timing"

    @property
    def detector(self) -> Path:
        """The trained detector, packed."""
        return self.root / "model" / "detector"


@dataclass(frozen=True)
class FoldFolder:
    """`model/<conf>/fold<k>/` of a classifier, `model/<conf>+<sequence conf>/fold<k>/` of a sequence model over it."""

    path: Path

    def checkpoint(self, epoch: int) -> Path:
        """The network's weights after an epoch, counted from 1."""
        return self.path / f"epoch{epoch}.safetensors"

    def predictions(self, split: str, epoch: int) -> Path:
        """Probabilities by the network of an epoch. `split` is "valid" (out-of-fold) or "test"."""
        return self.path / f"{split}_epoch{epoch}.parquet"

    @property
    def partial_predictions(self) -> Path:
        """The results so far of an interrupted prediction; deleted when it has finished. Held while it predicts."""
        return self.path / "partial_predictions"

    def embeddings(self, split: str, epoch: int) -> Path:
        """Embeddings by the network of an epoch. `split` is "train" (all folds) or "test"."""
        return self.path / f"embeddings_{split}_epoch{epoch}.npy"

    def components(self, epoch: int) -> Path:
        """The principal components that these embeddings are reduced to."""
        return self.path / f"embeddings_epoch{epoch}_pca.npz"

    @property
    def metrics(self) -> Path:
        """A table with a row per epoch."""
        return self.path / "metrics.csv"

    @property
    def conf(self) -> Path:
        """The resolved configuration."""
        return self.path / "conf.yaml"

    @property
    def versions(self) -> Path:
        """What the training ran on: packages, revision, hardware."""
        return self.path / "versions.yaml"

    @property
    def curves(self) -> Path:
        """TensorBoard's files."""
        return self.path / "curves"

    @property
    def state(self) -> Path:
        """The resume point of an interrupted training; deleted when it has finished."""
        return self.path / "state.pt"
