"""The results so far of an interrupted prediction, from which the next run resumes."""

import zipfile
from pathlib import Path

import numpy as np

from src.files.atomic import replacing
from src.labels import LABELS

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


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
        with replacing(self.path) as temporary:
            np.savez(temporary, key=np.array(self.key), probabilities=self.probabilities[:, : self.done])

    def delete(self) -> None:
        """Delete the saved file."""
        self.path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as saved:  # a zip file, so its checksums are verified
                if str(saved["key"]) != self.key:
                    return
                found = saved["probabilities"]
        except _DAMAGED:
            return
        self.probabilities[:, : found.shape[1]] = found
        self.done = found.shape[1]


def read_key(path: Path) -> str | None:
    """The key of saved results; None where they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return str(saved["key"])
    except _DAMAGED:
        return None
