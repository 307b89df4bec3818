"""One queue of studies and one worker: found, chosen, read, answered by the same functions as in a run over files."""

import logging
import queue
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.errors import NotEnoughDisk, UserError, shortened
from src.files.atomic import replacing
from src.pages.series import fetched_values
from src.progress import Watch
from src.study.answer import Reader, answer_scan, folder_name, row_of, rows_of_others, write_answer
from src.study.choose import choose
from src.study.find import Found, Scan, Study, find_studies
from src.study.read import ReadScan, read_scan
from src.study.results import Row, worklist
from src.viewer.entries import (
    CANCELLED,
    COMPUTING,
    FAILED,
    NOT_READ,
    READING,
    WAITING,
    Batch,
    SeriesEntry,
    StudyEntry,
)
from src.viewer.store import Store

_log = logging.getLogger(__name__)

MOST_SCAN_BYTES = 2 << 30  # of the pixels of one series, which are in memory while it is answered
MOST_WAITING = 50  # batches
_GOOD_BYE_S = 5.0  # that the end waits for the worker, which looks up after each few slices


class Cancelled(BaseException):
    """What is being read is not wanted any more. No Exception: a file's errors are survived, this is not."""


class Room:
    """All studies of a run, and the worker that reads them. output: where results are kept too, or None.

    Methods may be called from any thread.
    """

    def __init__(self, reader: Reader, store: Store, output: Path | None = None) -> None:
        self.reader, self._store, self.output = reader, store, output
        self.version = 0  # grows with every change that a page may show
        self._lock = threading.RLock()
        self._batches: dict[str, Batch] = {}
        self._studies: dict[str, StudyEntry] = {}
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._ending = False
        self._worker = threading.Thread(target=self._work, name="worker", daemon=True)

    def start(self) -> None:
        """Begin to read what is added."""
        self._worker.start()

    def close(self) -> None:
        """Give up what is being read, and end soon."""
        self._ending = True
        self._queue.put(None)
        self._worker.join(_GOOD_BYE_S)

    def add(
        self, name: str, paths: Sequence[Path], temporary: Path | None = None, names: Mapping[Path, str] | None = None
    ) -> Batch:
        """Put files into the queue. Raises UserError when it is full.

        temporary: a folder that is deleted when they are read. names: what people call a path of these.
        """
        with self._changing():
            if sum(each.status == WAITING for each in self._batches.values()) >= MOST_WAITING:
                raise UserError(f"{MOST_WAITING} uploads wait to be read; expected fewer: wait for the end of some")
            batch = Batch(secrets.token_urlsafe(9), name, paths, temporary, names or {})
            self._batches[batch.id] = batch
        self._queue.put(batch)
        return batch

    def cancel(self, some_id: str) -> None:
        """Stop reading a batch or a study. Raises KeyError where there is none."""
        with self._changing():
            found = self._batches.get(some_id) or self._studies[some_id]
            found.cancelled = True
            for study in self._studies.values():
                if found in (study, study.batch):
                    self._cancel_waiting(study)
            if isinstance(found, Batch) and found.status == WAITING:
                found.status = CANCELLED

    def remove(self, some_id: str) -> None:
        """Take a study, or a batch that has no studies, out of the list. Raises KeyError where there is none."""
        self.cancel(some_id)
        with self._changing():
            self._batches.pop(some_id, None)
            study = self._studies.pop(some_id, None)
            for each in study.series if study else ():
                if each.kept:
                    each.kept.remove()

    def series(self, series_id: str) -> SeriesEntry:
        """A series of the list. Raises KeyError where there is none."""
        with self._lock:
            for study in self._studies.values():
                for each in study.series:
                    if each.id == series_id:
                        return each
        raise KeyError(series_id)

    def study_of(self, series_id: str) -> StudyEntry:
        """The study of a series. Raises KeyError."""
        with self._lock:
            return next(study for study in self._studies.values() for each in study.series if each.id == series_id)

    def told(self, with_reading: set[str]) -> dict[str, Any]:
        """What a page shows: all batches, and all studies, most urgent first."""
        with self._lock:
            studies = sorted(self._studies.values(), key=lambda study: study.urgency)
            return {
                "version": self.version,
                "batches": [each.told() for each in self._batches.values()],
                "studies": [each.told(with_reading) for each in studies],
            }

    def changed(self) -> None:
        """Let pages look again."""
        with self._changing():
            pass

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            yield
            self.version += 1

    def _cancel_waiting(self, study: StudyEntry) -> None:
        for each in study.series:
            if each.status == WAITING:
                each.status, each.why = CANCELLED, "cancelled before it was read"

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None and not self._ending:
            try:
                self._read_batch(batch)
            except Cancelled:
                self._end(batch, CANCELLED, "cancelled")
            except (UserError, OSError, MemoryError) as error:
                self._end(batch, FAILED, _in_words(error, batch))
            except Exception as error:  # noqa: BLE001 - a fault of this program must not end all further reading
                _log.error("a batch failed: %s", type(error).__name__)  # its text may hold a patient's data
                self._end(batch, FAILED, f"a fault of this program: {type(error).__name__}")
            finally:
                if batch.temporary:
                    shutil.rmtree(batch.temporary, ignore_errors=True)

    def _end(self, batch: Batch, status: str, message: str = "") -> None:
        with self._changing():
            batch.status, batch.message, batch.done = status, message, 1.0
            for study in self._studies.values():
                if study.batch is batch:
                    self._cancel_waiting(study)

    def _read_batch(self, batch: Batch) -> None:
        if batch.cancelled:
            raise Cancelled
        batch.status = READING
        watch = self._watch(batch, lambda: batch.cancelled)
        found = find_studies(batch.paths, watch=watch, engine="serial", shown=False)
        studies = [self._entry(study, batch, found) for study in found.studies]
        with self._changing():
            batch.n_files, batch.passed_over = found.n_files, found.passed_over
            self._studies |= {study.id: study for study in studies}
        chosen = [each for study in studies for each in study.series if each.status == WAITING]
        named = Counter(each.scan.name for each in chosen)
        for number, each in enumerate(chosen):
            with self._changing():
                batch.done = number / len(chosen)
            if each.status == WAITING:  # not cancelled meanwhile
                study = next(study for study in studies if each in study.series)
                self._read_series(each, study, apart=named[each.scan.name] > 1)
        self._write_list()
        self._end(batch, CANCELLED if batch.cancelled else "done", "cancelled" if batch.cancelled else "")

    def _entry(self, study: Study, batch: Batch, found: Found) -> StudyEntry:
        series = [
            SeriesEntry(secrets.token_urlsafe(9), choice.scan, *_first_state(choice.scan, choice.read, choice.why))
            for choice in choose(study, gap_mm=self.reader.gap_mm)
        ]
        others = rows_of_others(Found([study], (), found.n_files))
        return StudyEntry(secrets.token_urlsafe(9), study, batch, series, others)

    def _read_series(self, each: SeriesEntry, study: StudyEntry, *, apart: bool) -> None:
        """Read and answer a series: its slices can be looked at before the networks have."""

        def unwanted() -> bool:
            return study.cancelled or study.batch.cancelled

        try:
            self._step(each, READING)
            read = read_scan(each.scan, watch=self._watch(each, unwanted))
            if read.pixels:
                kept = self._store.keep(each.id, read.pixels)
                with self._changing():
                    each.kept, each.values = kept, fetched_values(self.reader.view(read, None, None))
            self._step(each, COMPUTING)
            self._judge(each, read, self._watch(each, unwanted), apart=apart)
        except Cancelled:
            if self._ending:
                raise
            self._step(each, CANCELLED, "cancelled while it was read")
        except (OSError, MemoryError, NotEnoughDisk) as error:
            self._step(each, FAILED, _in_words(error, study.batch))
        finally:
            if study.id not in self._studies and each.kept:  # removed meanwhile
                each.kept.remove()

    def _judge(self, each: SeriesEntry, read: ReadScan, watch: Watch, *, apart: bool) -> None:
        answer = answer_scan(self.reader, each.scan, read, watch=watch)
        row, why = row_of(each.scan, answer.status, answer.why), answer.why
        if answer.result and self.output:
            try:
                row = write_answer(self.reader, answer, self.output / folder_name(each.scan, apart=apart))
            except (OSError, UserError) as error:
                why = f"its results could not be written: {shortened(error)}"
        with self._changing():
            if answer.result and each.kept:
                if answer.maps is not None:
                    each.kept.keep_maps(answer.maps)
                each.values = fetched_values(self.reader.view(read, answer.result, answer.maps))
            # the pixels are on the disk now
            each.answer, each.row = replace(answer, result=None, maps=None), row
            each.status, each.why, each.done = answer.status, why, 1.0

    def _step(self, each: SeriesEntry, status: str, why: str = "") -> None:
        with self._changing():
            each.status, each.why, each.done = status, why, 0.0

    def _watch(self, each: Batch | SeriesEntry, unwanted: Callable[[], bool]) -> Watch:
        def watch(done: int, total: int) -> None:
            if self._ending or unwanted():
                raise Cancelled
            with self._changing():
                each.done = done / max(total, 1)

        return watch

    def _write_list(self) -> None:
        """The work list of all that this run has read, beside the results."""
        if not self.output:
            return
        with self._lock:
            studies = list(self._studies.values())
        rows: list[Row] = [row for study in studies for row in study.others]
        rows += [each.row or row_of(each.scan, NOT_READ, each.why) for study in studies for each in study.series]
        if rows:
            with replacing(self.output / "worklist.csv") as temporary:
                worklist(rows).to_csv(temporary, index=False)


def _first_state(scan: Scan, chosen: bool, why: str) -> tuple[str, str]:
    """Status and reason of a series that was just found."""
    if not chosen:
        return NOT_READ, why
    size = sum(2 * each.header.rows * each.header.columns for each in scan.slices if each.header)
    if size > MOST_SCAN_BYTES:
        return NOT_READ, f"{size >> 20} MB of pixels; this page reads series of up to {MOST_SCAN_BYTES >> 20} MB"
    return WAITING, why


def _in_words(error: BaseException, batch: Batch) -> str:
    """An error for people, without the names of temporary files."""
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = shortened(error, 300)
    for path in batch.names:
        text = text.replace(str(path), batch.names[path])
    return text
