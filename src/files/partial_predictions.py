"""The results so far of an interrupted prediction, from which the next run resumes."""

from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files.arrays import read_arrays, write_arrays
from src.labels import LABELS

_SAVED = {"key": ("text", 0), "probabilities": ("float", 3)}


class PartialPredictions:
    """Probabilities of N slices by K networks, filled for the first `done` slices: (K, N, 6) float32.

    path: where they are saved. A file that is already there is resumed if it is intact and has the same `key`, which
    says which networks predict what; otherwise prediction starts anew.
    """

    def __init__(self, path: Path, key: str, n_networks: int, n_slices: int) -> None:
        self.path, self.key = path, key
        self.probabilities = np.full((n_networks, n_slices, len(LABELS)), np.nan, dtype=np.float32)
        self.done = 0
        self._take_over()

    def add(self, outputs: np.ndarray) -> None:
        """Add the next n slices: (K, n, 6)."""
        end = self.done + outputs.shape[1]
        self.probabilities[:, self.done : end] = outputs
        self.done = end

    def save(self) -> None:
        """Write the results so far, atomically."""
        done = np.ascontiguousarray(self.probabilities[:, : self.done])
        write_arrays(self.path, {"key": np.array(self.key), "probabilities": done})

    def delete(self) -> None:
        """Delete the saved file."""
        self.path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        try:
            saved = read_arrays(self.path, _SAVED)
        except UserError:
            return
        found, (networks, slices, labels) = saved["probabilities"], self.probabilities.shape
        fits = (found.shape[0], found.shape[2], found.dtype) == (networks, labels, np.float32)
        if (
            str(saved["key"]) != self.key
            or not fits
            or found.shape[1] > slices
            or not ((found >= 0) & (found <= 1)).all()
        ):
            return
        self.probabilities[:, : found.shape[1]] = found
        self.done = found.shape[1]


def read_key(path: Path) -> str | None:
    """The key of saved results; None where they cannot be read."""
    try:
        return str(read_arrays(path, _SAVED)["key"])
    except UserError:
        return None
