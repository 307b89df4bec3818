"""Embeddings of slices by one network: an .npy file that fills from its beginning, and beside it what it is of.

Of each of N slices it has a record of `logits` (6 of float32) and `embedding` (D of float16), in an order that whoever
reads it must know: series by series, each along z. `numpy.load(file, mmap_mode="r")["embedding"]` reads it anywhere.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.files.atomic import replacing
from src.labels import LABELS


@dataclass(frozen=True)
class EmbeddedBy:
    """Which network embedded what."""

    conf: str
    fold: int  # the one that the network did not see
    epoch: int
    checkpoint: str  # SHA-256
    trained_on: str  # what the network was trained on
    split: str  # "train" (all of its folds) or "test"
    slices: str  # ImageStore.fingerprint of the slices, in the file's order
    views: str  # test-time augmentation
    components: int | None  # of a principal component analysis; None: all that the network gives


def record(dimensions: int) -> np.dtype:
    """What is known of a slice: the classifier's logits and its embedding."""
    return np.dtype([("logits", np.float32, (len(LABELS),)), ("embedding", np.float16, (dimensions,))])


class EmbeddingWriter:
    """Fills a file of N records, or what an interrupted run left of it. `done`: records that are kept for good."""

    def __init__(self, path: Path, by: EmbeddedBy, n_slices: int, dimensions: int) -> None:
        self.path, self.by, self.n_slices, self.record = path, by, n_slices, record(dimensions)
        self.done = 0
        said = _read_note(path)
        if said is not None and said["by"] == asdict(by) and said["n_slices"] == n_slices and path.is_file():
            self.done = int(said["done"])

    def open_at(self, first: int) -> None:
        """Write from the record `first` on, at most `done`: several files may have come differently far."""
        self.done = first
        if not first:
            self._note()  # before the bytes that an older note would vouch for
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if first else "wb")
        if not first:
            header = {"descr": np.lib.format.dtype_to_descr(self.record), "fortran_order": False}
            np.lib.format.write_array_header_1_0(self._file, header | {"shape": (self.n_slices,)})
        else:
            np.lib.format.read_magic(self._file)
            np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        self._file.seek(self._start + first * self.record.itemsize)

    def add(self, logits: np.ndarray, embeddings: np.ndarray) -> None:
        """Append n slices: logits (n, 6), embeddings (n, D). Raises UserError for numbers beyond float16."""
        records = np.empty(len(logits), dtype=self.record)
        records["logits"] = logits
        with np.errstate(over="ignore"):  # it is looked for below
            records["embedding"] = embeddings
        if not np.isfinite(records["embedding"]).all():
            raise UserError(f"{self.path}: an embedding exceeds what float16 holds; the network has diverged")
        self._file.write(records.tobytes())

    def save(self) -> None:
        """Keep for good what was added so far."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done = (self._file.tell() - self._start) // self.record.itemsize
        self._note()

    def close(self) -> None:
        """Let go of the file. What was added after the last save is lost."""
        self._file.close()

    def _note(self) -> None:
        said = {"by": asdict(self.by), "n_slices": self.n_slices, "done": self.done}
        with replacing(_note_path(self.path)) as temporary:
            temporary.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


class Embeddings:
    """Reads a finished file, some records at a time; none of it stays in memory.

    It keeps no open file, and may be handed to worker processes. Raises UserError where the file is missing, is not
    finished or has not the bytes that it should have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        said = _read_note(path)
        if said is None or not path.is_file():
            raise UserError(f"{path} is missing; bin/sequence.sh makes it")
        if said["done"] != said["n_slices"]:
            raise UserError(
                f"{path} has {said['done']} of its {said['n_slices']} slices; bin/sequence.sh goes on with it"
            )
        self.by = EmbeddedBy(**said["by"])
        try:
            self._n_slices, self._record = self._open().shape[0], self._open().dtype
            self.dimensions: int = self._record["embedding"].shape[0]
        except (ValueError, OSError, KeyError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and run bin/sequence.sh again") from error

    def __len__(self) -> int:
        return self._n_slices

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Some slices that follow each other: logits (n, 6) and embeddings (n, D), float32 both."""
        records = self._open()[start:stop]
        return np.array(records["logits"]), records["embedding"].astype(np.float32)

    def _open(self) -> np.ndarray:
        # opened for each read: pages of a map that stays would count as this process's memory
        opened: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return opened


def is_finished(path: Path, by: EmbeddedBy) -> bool:
    """Whether a file is there, whole, by the same network of the same slices."""
    said = _read_note(path)
    return said is not None and path.is_file() and said["by"] == asdict(by) and said["done"] == said["n_slices"]


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_note(path: Path) -> dict[str, Any] | None:
    """What is noted of a file; None where there is no note, or one of another version."""
    try:
        said = json.loads(_note_path(path).read_text(encoding="utf-8"))
        EmbeddedBy(**said["by"])
        return {"by": said["by"], "n_slices": int(said["n_slices"]), "done": int(said["done"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
