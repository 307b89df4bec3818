"""Principal components of embeddings, which take a tenth of the disk."""

import zipfile
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from src.errors import UserError
from src.files.atomic import replacing


class Components:
    """A projection of embeddings to their first K principal components. mean: (D,), axes: (K, D)."""

    def __init__(self, mean: np.ndarray, axes: np.ndarray) -> None:
        self.mean, self.axes = mean, axes

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, K)."""
        projected: np.ndarray = (embeddings - self.mean) @ self.axes.T
        return projected


def fit_components(embeddings: np.ndarray, count: int) -> Components:
    """The first `count` principal components of embeddings (n, D). Raises UserError where there are not so many."""
    most = min(embeddings.shape)
    if count > most:
        raise UserError(
            f"--pca {count}: {embeddings.shape[0]} training slices with embeddings of {embeddings.shape[1]} numbers "
            f"have {most} components at most"
        )
    found = PCA(count, svd_solver="covariance_eigh").fit(embeddings)
    return Components(found.mean_, found.components_)


def write_components(path: Path, components: Components, key: str) -> None:
    """Keep components, atomically. key: a word for what they were fitted on."""
    with replacing(path) as temporary:
        np.savez(temporary, key=np.array(key), mean=components.mean, axes=components.axes)


def read_components(path: Path, key: str) -> Components | None:
    """What was kept under that key; None where nothing was."""
    try:
        with np.load(path, allow_pickle=False) as saved:  # a zip, so checksums are compared
            return Components(saved["mean"], saved["axes"]) if str(saved["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
