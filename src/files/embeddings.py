"""Embeddings of slices by one network: an .npy file, filled from its start, and a note of its provenance beside it.

The file has a record for each of N slices, series by series, each in z order: `logits` (6 of float32) and `embedding`
(D of float16). `numpy.load(file, mmap_mode="r")["embedding"]` reads it wherever numpy is installed.
"""

import io
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64

from src.documents import parse_json
from src.errors import UserError, shortened
from src.files.checksum import UNSEALED, read_sealed, write_sealed
from src.files.provenance import Provenance
from src.labels import LABELS

_log = logging.getLogger(__name__)

_PIECE = 1 << 24  # bytes


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
            size = len(self._header()) + note.done * self.record.itemsize
            if _is_intact(path, note) and note.size == (size if note.done else 0):
                self.done = note.done
            else:
                _log.warning("%s is damaged: its bytes do not have their checksum; it is made anew", path)

    def open_at(self, first: int) -> None:
        """Write from record `first` on, which is at most `done`: the files of a group may be filled unequally far."""
        rewound, self.done = first < self.done, first
        if not first:
            self._note()  # before the records, which an older note would count as saved
            self.path.parent.mkdir(parents=True, exist_ok=True)
        header = self._header()
        self._start = len(header)
        self._file = self.path.open("r+b" if first else "wb")
        if first:
            end = self._start + first * self.record.itemsize
            self._digest = _digest(self.path, end)
            self._file.seek(end)
            if rewound:
                self._note()
        else:
            self._digest = xxh3_64()
            self._write(header)

    def add(self, logits: np.ndarray, embeddings: np.ndarray) -> None:
        """Append n slices: logits (n, 6), embeddings (n, D).

        Raises UserError for values that are not finite, or beyond float16.
        """
        records = np.empty(len(logits), dtype=self.record)
        records["logits"] = logits
        with np.errstate(over="ignore"):  # checked below
            records["embedding"] = embeddings
        if not (np.isfinite(logits).all() and np.isfinite(embeddings).all()):
            raise UserError(f"{self.path}: some logits or embeddings are not finite; the network has diverged")
        if not np.isfinite(records["embedding"]).all():
            raise UserError(f"{self.path}: an embedding exceeds what float16 holds; the network has diverged")
        self._write(records.tobytes())

    def save(self) -> None:
        """Flush the records added so far to disk, and note how many there are."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done = (self._file.tell() - self._start) // self.record.itemsize
        self._note()

    def close(self) -> None:
        """Close the file. Records added after the last save are lost."""
        self._file.close()

    def _header(self) -> bytes:
        header = io.BytesIO()
        about = {"descr": np.lib.format.dtype_to_descr(self.record), "fortran_order": False}
        np.lib.format.write_array_header_1_0(header, about | {"shape": (self.n_slices,)})
        return header.getvalue()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def _note(self) -> None:
        note = {
            "by": self.provenance.record(),
            "n_slices": self.n_slices,
            "done": self.done,
            "bytes": self._file.tell() if self.done else 0,
            "digest": self._digest.hexdigest() if self.done else "",
            "checksum": UNSEALED,  # of this note
        }
        write_sealed(_note_path(self.path), (json.dumps(note, indent=2) + "\n").encode())


class Embeddings:
    """Reads a finished file, some records at a time, without keeping any of it in memory.

    It keeps no file open, so it can be handed to worker processes. All bytes are compared with their checksum once, at
    first. Raises UserError where the file is missing, unfinished or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        note = _read_note(path)
        if not path.is_file():
            raise UserError(f"{path} is missing", step="sequence")
        if note is None:
            raise UserError(f"{_note_path(path)}, the note beside {path}, is missing or damaged", step="sequence")
        if note.done != note.n_slices:
            raise UserError(f"{path} has {note.done} of its {note.n_slices} slices", step="sequence")
        if not _is_intact(path, note):
            raise UserError(f"{path} is damaged (its bytes do not have their checksum); delete it", step="sequence")
        self.provenance = note.provenance
        self._n_slices = note.n_slices
        try:
            opened = self._open()
            self.dimensions: int = opened.dtype["embedding"].shape[0]
            if (opened.shape, opened.dtype) != ((note.n_slices,), record(self.dimensions)):
                raise ValueError(f"{opened.shape} records of {opened.dtype}")
        except Exception as error:  # a header that is not what this class writes can make numpy raise anything
            raise UserError(f"{path} holds no embeddings ({shortened(error)}); delete it", step="sequence") from error

    def __len__(self) -> int:
        return self._n_slices

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Consecutive slices: logits (n, 6) and embeddings (n, D), both float32.

        Raises UserError for values that are not finite.
        """
        records = self._open()[start:stop]
        logits, embeddings = np.array(records["logits"]), records["embedding"].astype(np.float32)
        if not (np.isfinite(logits).all() and np.isfinite(embeddings).all()):
            raise UserError(f"{self.path} has values that are not finite; delete it", step="sequence")
        return logits, embeddings

    def _open(self) -> np.ndarray:
        # opened for each read, because the pages of a lasting memory map would count as this process's memory
        opened: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return opened


def is_finished(path: Path, provenance: Provenance) -> bool:
    """Whether a file exists, is complete and intact, and has this provenance."""
    note = _read_note(path)
    if note is None or not path.is_file() or note.provenance != provenance or note.done != note.n_slices:
        return False
    return _is_intact(path, note)


class _Note(NamedTuple):
    """The note beside a file of embeddings."""

    provenance: Provenance
    n_slices: int
    done: int
    size: int  # bytes of the file up to its last saved record
    digest: str  # of these


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_note(path: Path) -> _Note | None:
    """Read the note beside a file; None where there is none, a damaged one, or one of another version."""
    try:
        note = parse_json(read_sealed(_note_path(path)))
        n_slices, done, size = (int(note[key]) for key in ("n_slices", "done", "bytes"))
        found = _Note(Provenance.from_record(note["by"]), n_slices, done, size, str(note["digest"]))
    except (UserError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return found if 0 <= done <= n_slices and size >= 0 else None


def _is_intact(path: Path, note: _Note) -> bool:
    return path.stat().st_size >= note.size and (not note.done or _digest(path, note.size).hexdigest() == note.digest)


def _digest(path: Path, size: int) -> xxh3_64:
    """The digest of a file's first bytes, read in pieces: the competition's embeddings take gigabytes."""
    digest = xxh3_64()
    with path.open("rb") as file:
        while size and (piece := file.read(min(size, _PIECE))):
            digest.update(piece)
            size -= len(piece)
    return digest
