"""Predictions on their way: what an interrupted run has of them, so that the next one goes on from there."""

import time
import zipfile
from pathlib import Path

import numpy as np

from src.files.atomic import replacing
from src.labels import LABELS


class Unfinished:
    """Probabilities of N slices by K networks, of which the first `done` slices are there: (K, N, 6) float32.

    path: where it is kept; what it finds there is taken up if it is of the same `key`, a word that says which networks
    predict what, and is whole. Anything else is begun anew. save_s: seconds between two saves.
    """

    def __init__(self, path: Path, key: str, n_networks: int, n_slices: int, save_s: float) -> None:
        self.path, self.key, self.save_s = path, key, save_s
        self.probabilities = np.full((n_networks, n_slices, len(LABELS)), np.nan, dtype=np.float32)
        self.done = 0
        self._saved_at = time.monotonic()
        self._take_up()

    def add(self, index: np.ndarray, probabilities: np.ndarray) -> None:
        """Put in the slices that follow. index: (n,) from `done` on, in any order; probabilities: (K, n, 6)."""
        self.probabilities[:, index] = probabilities
        self.done += len(index)
        if time.monotonic() - self._saved_at >= self.save_s:
            self.save()

    def save(self) -> None:
        """Keep what is there, atomically."""
        with replacing(self.path) as temporary:
            np.savez(temporary, key=np.array(self.key), probabilities=self.probabilities[:, : self.done])
        self._saved_at = time.monotonic()

    def delete(self) -> None:
        """Keep nothing."""
        self.path.unlink(missing_ok=True)
        folder = self.path.parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _take_up(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as saved:  # a zip, so checksums are compared
                if str(saved["key"]) != self.key:
                    return
                found = saved["probabilities"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return
        self.probabilities[:, : found.shape[1]] = found
        self.done = found.shape[1]
