"""What is in the list: batches of files, the studies found in them, their series; and how a page is told of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.dicom.series import PassedOver
from src.labels import LABELS
from src.study.answer import Answer
from src.study.find import Scan, Study
from src.study.results import Row
from src.viewer.store import KeptSlices

WAITING, READING, COMPUTING = "waiting", "reading", "computing"
READ, REFUSED, FAILED, CANCELLED, NOT_READ = "read", "refused", "failed", "cancelled", "not read"
UNFINISHED = (WAITING, READING, COMPUTING)
_ORDER = {READ: 0, COMPUTING: 1, READING: 1, WAITING: 1, FAILED: 2, REFUSED: 3, CANCELLED: 4, NOT_READ: 5}
MOST_NAMED = 20  # files that were passed over, in a page


@dataclass
class Batch:
    """Files that were given together. status: "waiting", "reading", "done", "failed" or "cancelled"; message: why.

    names: what people call a path, where that is another name than its own.
    """

    id: str
    name: str
    paths: Sequence[Path]
    temporary: Path | None = None  # deleted when the batch has been read
    names: Mapping[Path, str] = field(default_factory=dict)
    status: str = WAITING
    message: str = ""
    done: float = 0.0
    n_files: int = 0
    passed_over: Sequence[PassedOver] = ()
    cancelled: bool = False

    def named(self, path: Path) -> str:
        """What people call a path."""
        for each in (path, *path.parents):
            if each in self.names:
                return str(Path(self.names[each]) / path.relative_to(each))
        return path.name if self.temporary else str(path)

    def told(self) -> dict[str, Any]:
        """What a page shows of it."""
        passed = [
            {"name": self.named(each.path), "why": f"{each.reason.replace('_', ' ')}: {self._plain(each)}"}
            for each in self.passed_over[:MOST_NAMED]
        ]
        return {
            "id": self.id, "name": self.name, "status": self.status, "message": self.message, "done": self.done,
            "files": self.n_files, "passed_over": len(self.passed_over), "named": passed,
        }  # fmt: skip

    def _plain(self, each: PassedOver) -> str:
        """A message without the paths of temporary files."""
        message = each.message
        for path in sorted(self.names, key=lambda path: -len(str(path))) if str(self.temporary) in message else ():
            message = message.replace(str(path), self.names[path])
        return message


@dataclass
class SeriesEntry:
    """A series of a study. done: the fraction of the present step. values: of the template that shows it, or None."""

    id: str
    scan: Scan
    status: str
    why: str = ""
    done: float = 0.0
    kept: KeptSlices | None = None
    values: dict[str, Any] | None = None
    answer: Answer | None = None  # without pixels and maps
    row: Row | None = None

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of a series that is read; else empty."""
        return (self.answer and self.answer.summary) or {}

    def call(self, label: str) -> bool | None:
        """What the detector calls a label; None where it has no threshold, or has not answered yet."""
        called: bool | None = self.summary.get("calls", {}).get("youden", {}).get(label, {}).get("positive")
        return called

    def told(self, *, has_reading: bool) -> dict[str, Any]:
        """What a page shows of it in the list."""
        first, summary = self.scan.first, self.summary
        return {
            "id": self.id,
            "name": series_name(self.scan),
            "slices": len(self.scan.slices),
            "status": self.status,
            "why": self.why,
            "done": self.done,
            "viewable": self.values is not None,
            "kernel": first.kernel,
            "probabilities": [summary["study"][label] for label in LABELS] if summary else None,
            "calls": [self.call(label) for label in LABELS],
            "warnings": list(summary.get("warnings", [])),
            "reading": has_reading,
        }


@dataclass
class StudyEntry:
    """A study in the list. others: name and reason of its objects that are no slices in HU."""

    id: str
    study: Study
    batch: Batch
    series: list[SeriesEntry]
    others: Sequence[Row]
    cancelled: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether any of its series is still to be read."""
        return any(each.status in UNFINISHED for each in self.series)

    @property
    def urgency(self) -> tuple[int, float]:
        """Smaller comes first: the probability of any bleed, then what is being read, then what was not."""
        if not self.series:
            return len(_ORDER), 0.0
        return min((_ORDER[each.status], -each.summary.get("study", {}).get(LABELS[0], 0.0)) for each in self.series)

    def told(self, with_reading: set[str]) -> dict[str, Any]:
        """What a page shows of it. with_reading: SeriesInstanceUIDs of series that somebody has judged."""
        first = self.series[0].scan.first if self.series else None
        return {
            "id": self.id,
            "patient": self.study.patient,
            "date": iso_date(first.study_date) if first else "",
            "description": first.study_description if first else "",
            "batch": self.batch.id,
            "unfinished": self.unfinished,
            "series": [each.told(has_reading=each.scan.uid in with_reading) for each in self.series],
            "others": [{"name": each.series or "series without a number", "why": each.why} for each in self.others],
        }


def series_name(scan: Scan) -> str:
    """A series in a few words: number, description and part."""
    first = scan.first
    named = " ".join(filter(None, (first.series_number, first.series_description))) or "without a number"
    return f"Series {named}" + (f", part {scan.part}" if scan.part else "")


def iso_date(text: str) -> str:
    """A DICOM date, such as 20261127, with dashes; anything else as it is."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text
