"""Embeddings of slices by one network: an .npy file, filled from its start, and a note of its provenance beside it.

The file has a record for each of N slices, series by series, each in z order: `logits` (6 of float32) and `embedding`
(D of float16). `numpy.load(file, mmap_mode="r")["embedding"]` reads it wherever numpy is installed.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.errors import UserError
from src.files.atomic import replacing
from src.files.provenance import Provenance
from src.labels import LABELS


def record(dimensions: int) -> np.dtype:
    """The dtype of a slice's record: the classifier's logits and its embedding."""
    return np.dtype([("logits", np.float32, (len(LABELS),)), ("embedding", np.float16, (dimensions,))])


class EmbeddingWriter:
    """Writes a file of N records, from its start or from where an interrupted run stopped.

    done: the number of saved records.
    """

    def __init__(self, path: Path, provenance: Provenance, n_slices: int, dimensions: int) -> None:
        self.path, self.provenance, self.n_slices, self.record = path, provenance, n_slices, record(dimensions)
        self.done = 0
        note = _read_note(path)
        if note is not None and note.provenance == provenance and note.n_slices == n_slices and path.is_file():
            self.done = note.done

    def open_at(self, first: int) -> None:
        """Write from record `first` on, which is at most `done`: the files of a group may be filled unequally far."""
        self.done = first
        if not first:
            self._note()  # before the records, which an older note would count as saved
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
        """Append n slices: logits (n, 6), embeddings (n, D). Raises UserError for values beyond float16."""
        records = np.empty(len(logits), dtype=self.record)
        records["logits"] = logits
        with np.errstate(over="ignore"):  # checked below
            records["embedding"] = embeddings
        if not np.isfinite(records["embedding"]).all():
            raise UserError(f"{self.path}: an embedding exceeds what float16 holds; the network has diverged")
        self._file.write(records.tobytes())

    def save(self) -> None:
        """Flush the records added so far to disk, and note how many there are."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done = (self._file.tell() - self._start) // self.record.itemsize
        self._note()

    def close(self) -> None:
        """Close the file. Records added after the last save are lost."""
        self._file.close()

    def _note(self) -> None:
        note = {"by": self.provenance.record(), "n_slices": self.n_slices, "done": self.done}
        with replacing(_note_path(self.path)) as temporary:
            temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


class Embeddings:
    """Reads a finished file, some records at a time, without keeping any of it in memory.

    It keeps no file open, so it can be handed to worker processes. Raises UserError where the file is missing,
    unfinished or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        note = _read_note(path)
        if note is None or not path.is_file():
            raise UserError(f"{path} is missing", step="sequence")
        if note.done != note.n_slices:
            raise UserError(f"{path} has {note.done} of its {note.n_slices} slices", step="sequence")
        self.provenance = note.provenance
        try:
            self._n_slices, self._record = self._open().shape[0], self._open().dtype
            self.dimensions: int = self._record["embedding"].shape[0]
        except (ValueError, OSError, KeyError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it", step="sequence") from error

    def __len__(self) -> int:
        return self._n_slices

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Consecutive slices: logits (n, 6) and embeddings (n, D), both float32."""
        records = self._open()[start:stop]
        return np.array(records["logits"]), records["embedding"].astype(np.float32)

    def _open(self) -> np.ndarray:
        # opened for each read, because the pages of a lasting memory map would count as this process's memory
        opened: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return opened


def is_finished(path: Path, provenance: Provenance) -> bool:
    """Whether a file exists, is complete and has this provenance."""
    note = _read_note(path)
    return note is not None and path.is_file() and note.provenance == provenance and note.done == note.n_slices


class _Note(NamedTuple):
    """The note beside a file of embeddings."""

    provenance: Provenance
    n_slices: int
    done: int


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_note(path: Path) -> _Note | None:
    """Read the note beside a file; None where there is none, or one of another version."""
    try:
        note = json.loads(_note_path(path).read_text(encoding="utf-8"))
        return _Note(Provenance.from_record(note["by"]), int(note["n_slices"]), int(note["done"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
