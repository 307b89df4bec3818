"""What a radiologist says of a series, label by label, as a CSV of labels that a validation takes."""

import csv
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.labels import LABELS

ANSWERS = ("agree", "disagree", "present", "absent")
COLUMNS = ("SeriesInstanceUID", "StudyInstanceUID", *LABELS, "disagreed", "note", "read_at", "detector")
FILE = "readings.csv"
MOST_NOTE = 2000  # letters


@dataclass(frozen=True)
class Reading:
    """Of one series. values: by label True, False or None for a label that was not judged.

    disagreed: the labels that the detector called otherwise. read_at: ISO 8601, UTC. detector: the SHA-256 of the one
    whose answer was shown.
    """

    series: str
    study: str
    values: Mapping[str, bool | None]
    disagreed: tuple[str, ...]
    note: str
    read_at: str
    detector: str

    def row(self) -> dict[str, str]:
        """Its row of the CSV, by column."""
        values = {label: "" if (value := self.values[label]) is None else str(int(value)) for label in LABELS}
        ids = {"SeriesInstanceUID": self.series, "StudyInstanceUID": self.study}
        rest = {"note": self.note, "read_at": self.read_at, "detector": self.detector}
        return {**ids, **values, "disagreed": " ".join(self.disagreed), **rest}


def values_of(answers: Mapping[str, str], calls: Mapping[str, bool | None]) -> tuple[dict[str, bool | None], list[str]]:
    """Labels by answers, of ANSWERS or empty, and the labels on which the detector's calls are disagreed with.

    Raises UserError for an unknown label or answer, for agreement where nothing was called, and for a series that has a
    kind of hemorrhage but none at all.
    """
    unknown = [
        f"{name}: {answer}" for name, answer in answers.items() if name not in LABELS or answer not in ("", *ANSWERS)
    ]
    if unknown:
        raise UserError(
            f"{first_few(unknown)}: expected labels {', '.join(LABELS)} with {', '.join(ANSWERS)} or nothing"
        )
    values: dict[str, bool | None] = dict.fromkeys(LABELS)
    for label, answer in answers.items():
        call = calls.get(label)
        if answer in ("agree", "disagree") and call is None:
            raise UserError(f"{label}: the detector makes no call to {answer} with; expected present or absent")
        if answer:
            values[label] = {"agree": call, "disagree": not call, "present": True, "absent": False}[answer]
    kinds = [label for label in LABELS[1:] if values[label]]
    if values[LABELS[0]] is False and kinds:
        raise UserError(f"{first_few(kinds)} present but no hemorrhage at all: expected any to be present too")
    disagreed = [
        label for label in LABELS if values[label] is not None and calls.get(label) not in (None, values[label])
    ]
    return values, disagreed


class Readings:
    """The readings of a run, the last one of each series. path: the file that holds them too, or None.

    Raises UserError where there is a file of another kind.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._rows: dict[str, dict[str, str]] = self._stored()

    def put(self, reading: Reading) -> None:
        """Keep a reading in place of an earlier one of the series. Raises OSError where it cannot be written."""
        with self._lock:
            # another run may have added some
            rows = {**self._rows, **self._stored(), reading.series: reading.row()}
            if self._path:
                with replacing(self._path) as temporary:
                    temporary.write_text(_as_csv(rows), encoding="utf-8")
            self._rows = rows

    def get(self, series: str) -> dict[str, str] | None:
        """The row of a series, by column; None where nobody has judged it."""
        with self._lock:
            return self._rows.get(series)

    def uids(self) -> set[str]:
        """SeriesInstanceUIDs of all series that somebody has judged."""
        with self._lock:
            return set(self._rows)

    def as_csv(self) -> str:
        """All of them as a CSV."""
        with self._lock:
            return _as_csv(self._rows)

    def _stored(self) -> dict[str, dict[str, str]]:
        if self._path is None or not self._path.exists():
            return {}
        with self._path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise UserError(f"{self._path} has other columns than readings; expected {', '.join(COLUMNS)}")
            return {row["SeriesInstanceUID"]: row for row in table}


def _as_csv(rows: Mapping[str, Mapping[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows.values())
    return text.getvalue()
