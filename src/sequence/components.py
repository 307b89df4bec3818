"""Principal components of embeddings, which take a tenth of the disk space."""

from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files.arrays import read_arrays, write_arrays


class TooManyComponents(UserError):  # noqa: N818 - it names what was asked for
    """More principal components are asked for than the embeddings have."""


class PrincipalComponents:
    """A projection of embeddings to their first K principal components. mean: (D,), axes: (K, D)."""

    def __init__(self, mean: np.ndarray, axes: np.ndarray) -> None:
        self.mean, self.axes = mean, axes

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, K)."""
        projected: np.ndarray = (embeddings - self.mean) @ self.axes.T
        return projected


def fit_components(embeddings: np.ndarray, count: int) -> PrincipalComponents:
    """The first `count` principal components of embeddings (n, D). Raises TooManyComponents where there are fewer."""
    most = min(embeddings.shape)
    if count > most:
        raise TooManyComponents(
            f"{count} principal components: {embeddings.shape[0]} training slices with embeddings of "
            f"{embeddings.shape[1]} numbers have {most} at most"
        )
    from sklearn.decomposition import PCA  # here: it takes a second to import, and most runs need none

    found = PCA(count, svd_solver="covariance_eigh").fit(embeddings)
    return PrincipalComponents(found.mean_, found.components_)


def write_components(path: Path, components: PrincipalComponents, key: str) -> None:
    """Write components, atomically. key: identifies what they depend on."""
    # by rows, whatever the memory order that they were fitted in
    arrays = {"key": np.array(key), "mean": components.mean, "axes": np.ascontiguousarray(components.axes)}
    write_arrays(path, arrays)


def read_components(path: Path, key: str) -> PrincipalComponents | None:
    """Read components; None where the file is missing, damaged or has another key."""
    try:
        saved = read_arrays(path, {"key": ("text", 0), "mean": ("float", 1), "axes": ("float", 2)})
    except UserError:
        return None
    mean, axes = saved["mean"], saved["axes"]
    return PrincipalComponents(mean, axes) if str(saved["key"]) == key and axes.shape[1:] == mean.shape else None
