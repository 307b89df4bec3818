"""Curves of a training for TensorBoard, written while it runs: `tensorboard --logdir model`."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_FLUSH_S = 30.0  # seconds after which a reader sees a point


class TensorBoard:
    """Scalars over steps, counted from 1 over all epochs. Nothing is written without a folder.

    step: the last step to keep; later points, which an interrupted run wrote and this one writes again, are removed.

    The points are written in the caller's thread. tensorboard's own writer has a thread, which a full disk ends with a
    traceback, and the training learns of it much later. Raises OSError naming the file.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._path: Path | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # as tensorboard names them: it reads a folder's files in the order of their names
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = self._path.open("xb")
        self._records, self._flushed = RecordWriter(self._file), time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add(self, values: dict[str, Any], step: int) -> None:
        """Add a point to each curve. NaN, such as the AUC of a label that no slice has, is left out."""
        if self._path is None:
            return
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items() if not isnan(value)]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write all points to disk."""
        if self._path is not None:
            with self._named():
                self._file.flush()
            self._flushed = time.monotonic()

    def _write(self, event: Event) -> None:
        with self._named():
            self._records.write(event.SerializeToString())

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)
            raise

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._path is None:
            return
        if kind is None:
            self.flush()
        with suppress(OSError):  # on the way out of an error, which must not be hidden by a second one
            self._file.close()
