"""Where everything lies under the root folder that holds input/, cache/, model/ and submission/."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The one home of the pipeline's file names. `split` is "train" or "test"."""

    root: Path

    def table(self, split: str) -> Path:
        """A row per ID: labels, tags, place in its series."""
        return self.root / "cache" / f"{split}.parquet"

    def store(self, split: str) -> Path:
        """The image store's folder."""
        return self.root / "cache" / split

    @property
    def folds(self) -> Path:
        """Which fold each training slice is in."""
        return self.root / "cache" / "folds.parquet"

    @property
    def audit(self) -> Path:
        """Leaks and data quality."""
        return self.root / "cache" / "audit.json"

    def fold(self, conf_name: str, fold: int) -> "FoldFolder":
        """What training and prediction make of one classifier and one fold."""
        return FoldFolder(self.root / "model" / conf_name / f"fold{fold}")

    def unfinished(self, conf_name: str) -> Path:
        """How far predictions have come that were interrupted; gone when they have finished."""
        return self.root / "model" / conf_name / "unfinished"


@dataclass(frozen=True)
class FoldFolder:
    """`model/<conf>/fold<k>/`, of a classifier; of a sequence model over it `model/<conf>+<sequence conf>/fold<k>/`."""

    path: Path

    def checkpoint(self, epoch: int) -> Path:
        """The network's weights after an epoch, counted from 1."""
        return self.path / f"epoch{epoch}.safetensors"

    def predictions(self, split: str, epoch: int) -> Path:
        """Probabilities by the network of an epoch. `split` is "valid" (out of fold) or "test"."""
        return self.path / f"{split}_epoch{epoch}.parquet"

    def embeddings(self, split: str, epoch: int) -> Path:
        """Embeddings by the network of an epoch. `split` is "train" (all folds) or "test"."""
        return self.path / f"embeddings_{split}_epoch{epoch}.npy"

    def components(self, epoch: int) -> Path:
        """The principal components that these embeddings are reduced to."""
        return self.path / f"embeddings_epoch{epoch}_pca.npz"

    @property
    def metrics(self) -> Path:
        """A row per epoch."""
        return self.path / "metrics.csv"

    @property
    def conf(self) -> Path:
        """The resolved configuration."""
        return self.path / "conf.yaml"

    @property
    def versions(self) -> Path:
        """What it ran on: packages, revision, hardware."""
        return self.path / "versions.yaml"

    @property
    def curves(self) -> Path:
        """TensorBoard's files."""
        return self.path / "curves"

    @property
    def state(self) -> Path:
        """What an interrupted training goes on from; gone when it has finished."""
        return self.path / "state.pt"
