"""A detector's answers to scans: judged, predicted, written as files, each scan by itself."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import src
from src.ct.geometry import sides_of
from src.detector import Detector
from src.detector.folder import DESCRIPTION
from src.dicom.sources import state_of
from src.errors import shortened
from src.files.checksum import file_sha256
from src.pages.series import SeriesView, series_page
from src.progress import Watch, progress, unwatched
from src.study.choose import TYPICAL_GAP_MM, Choice
from src.study.dicom_results import DICOM_FORMAT, NoDicomResults, dicom_results
from src.study.find import Found, Scan
from src.study.judge import judge, warn_of_distance
from src.study.read import ReadScan, read_scan
from src.study.results import Result, Row, details_of, finished_summary, summary_of, write_result

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MAPS_NOTE = (
    "Class activation maps (Zhou 2016) show, coarsely, where the slice classifiers see a label. They explain neither "
    "the second stage nor the recipe, and outline no bleed."
)
NO_MAPS_NOTE = "There are no class activation maps: they were not asked for, or these networks have none."


@dataclass(frozen=True)
class Reader:
    """A detector with all that its answers depend on. sha256: of its description; prevalence: of any bleed, or None.

    maps: whether there are class activation maps; dicom: whether there are results as DICOM objects.
    """

    detector: Detector
    sha256: str
    prevalence: float | None = None
    maps: bool = True
    dicom: bool = False

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | None = None,
        runtime: str = "torch",
        prevalence: float | None = None,
        maps: bool = True,
        dicom: bool = False,
    ) -> "Reader":
        """Load a detector's folder. Raises UserError like `Detector.load`."""
        detector = Detector.load(folder, device=device, runtime=runtime)
        return cls(detector, file_sha256(folder / DESCRIPTION), prevalence, maps, dicom)

    @property
    def gap_mm(self) -> float:
        """The distance of slices in the training data."""
        recorded = self.detector.description.facts.get("training", {}).get("gap_mm")
        return float(recorded or TYPICAL_GAP_MM)

    def provenance(self, scan: Scan) -> dict[str, Any]:
        """What a summary depends on. Where it is the same, so are the numbers."""
        files = hashlib.sha256()
        for each in scan.slices:
            files.update(f"{each.id} {state_of(each.source)[0]}\n".encode())
        return {
            "format": FORMAT_VERSION,
            "version": src.__version__,
            "detector": self.sha256,
            "networks": len(self.detector.description.networks),
            "files": files.hexdigest(),
            "prevalence": self.prevalence,
            "maps": self.maps,
            **self.detector.runtime.provenance,
            **({"dicom": DICOM_FORMAT} if self.dicom else {}),
        }

    def answer(self, read: ReadScan, *, watch: Watch = unwatched) -> Result | str:
        """Read a scan: the result, or why it is no head CT that can be judged. watch: is told of slices."""
        if not read.pixels:
            return f"none of its slices can be read: {read.unreadable[0].message}"
        judgement = judge(read.scan, read.pixels, self.gap_mm)
        if judgement.refusal:
            return judgement.refusal
        notice = self.detector.description.notice
        warnings = [*judgement.warnings, *([notice] if notice else [])]
        if read.unreadable:
            count = len(read.unreadable)
            warnings.insert(0, f"{count} {'file' if count == 1 else 'files'} of this series cannot be read.")
        probabilities, distances = self.detector.predict(read.series, watch=watch)
        limits, unlike = self.detector.description.distance, None
        if distances is not None and limits is not None:
            warnings += warn_of_distance(distances, limits)
            unlike = distances > limits.slices
        return Result(read, probabilities, self.detector.study_level(probabilities), warnings, unlike)

    def activation_maps(self, result: Result) -> np.ndarray | None:
        """The class activation maps of a result's slices, (S, 6, size, size); None where there are none."""
        return self.detector.activation_maps(result.read.series) if self.maps else None

    def view(self, read: ReadScan, result: Result | None, maps: np.ndarray | None) -> SeriesView:
        """What a page shows of a scan, also before there is a result."""
        scan = read.scan
        note = MAPS_NOTE if maps is not None else NO_MAPS_NOTE
        return SeriesView(
            title=f"Series {scan.first.series_number or scan.name}",
            details=details_of(scan),
            warnings=result.warnings if result else [],
            pixels=read.pixels,
            spacings=[(each.header.row_spacing, each.header.column_spacing) for each in scan.slices if each.header],
            z=scan.z,
            ids=[each.id for each in scan.slices],
            probabilities=result.probabilities if result else None,
            study=result.study if result else None,
            thresholds=self.thresholds,
            maps=maps,
            maps_note=note if result else "",
            sides=sides_of(np.array(scan.first.header.orientation)) if scan.first.header else "",
        )

    @property
    def thresholds(self) -> dict[str, float | None]:
        """Those of the study's probabilities by which it is called, by label; None where there is none."""
        return self.detector.operating_points.get("study", {}).get("youden", {})


def answer_all(reader: Reader, choices: Sequence[Choice], output: Path) -> list[Row]:
    """Answer all scans that were chosen, and write the folder of each below `output`: a row of the work list for each.

    What an earlier run has answered is kept. A scan that cannot be read, or fails, stops none of the others.
    """
    rows = [row_of(choice.scan, "not read", choice.why) for choice in choices if not choice.read]
    chosen = [choice.scan for choice in choices if choice.read]
    named = Counter(scan.name for scan in chosen)
    due = []
    for scan in chosen:
        # one UID in two studies is against the standard, and what some anonymisers make
        folder = output / folder_name(scan, apart=named[scan.name] > 1)
        summary = finished_summary(folder, reader.provenance(scan))
        if summary is None:
            due.append((scan, folder))
        else:
            rows.append(row_of(scan, "read", "", summary, folder))
    with progress(desc="series", total=len(due), unit="series") as shown:
        for (scan, folder), read in zip(due, _read_ahead([scan for scan, _ in due]), strict=True):
            rows.append(write_answer(reader, answer_scan(reader, scan, read), folder))
            shown.update()
    return rows


def _read_ahead(scans: Sequence[Scan]) -> Iterator[ReadScan | MemoryError]:
    """Read scans in order, the next one while the networks look at this one; two are in memory at most.

    One that is too large for the memory is its error, so that the others are read.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = [pool.submit(read_scan, scan) for scan in scans[:1]]
        for i in range(len(scans)):
            found: ReadScan | MemoryError
            try:
                found = coming.pop().result()
            except MemoryError as error:
                found = error
            coming += [pool.submit(read_scan, scan) for scan in scans[i + 1 : i + 2]]
            yield found


@dataclass(frozen=True)
class Answer:
    """What a detector says about a scan. status: "read", "refused" or "failed"; the last two say why.

    result: None unless it is read. summary: of a scan that is read. maps: (S, 6, size, size), or None without.
    """

    scan: Scan
    status: str
    why: str = ""
    result: Result | None = None
    summary: dict[str, Any] | None = None
    maps: np.ndarray | None = None


def answer_scan(reader: Reader, scan: Scan, read: ReadScan | MemoryError, *, watch: Watch = unwatched) -> Answer:
    """Answer a scan; whatever is wrong with it alone is the answer. Raises OSError for errors of the machine.

    read: its pixels, or the error of a scan that is too large for the memory. watch: is told of slices.
    """
    with _failing_alone(scan) as failed:
        if isinstance(read, MemoryError):
            raise read
        result = reader.answer(read, watch=watch)
        if isinstance(result, str):
            return Answer(scan, "refused", result)
        summary = summary_of(result, reader.detector.description, reader.prevalence, reader.provenance(scan))
        return Answer(scan, "read", "", result, summary, reader.activation_maps(result))
    return failed[0]


def write_answer(reader: Reader, answer: Answer, folder: Path) -> Row:
    """Write the folder of a scan that was read: its row of the work list."""
    scan, result, summary = answer.scan, answer.result, answer.summary
    if result is None or summary is None:
        return row_of(scan, answer.status, answer.why)
    with _failing_alone(scan) as failed:
        page = series_page(reader.view(result.read, result, answer.maps))
        objects = _dicom_results(reader, result, summary, answer.maps) if reader.dicom else {}
    if failed:
        return row_of(scan, failed[0].status, failed[0].why)
    write_result(folder, result, summary, page, objects)
    return row_of(scan, "read", "", summary, folder)


@contextmanager
def _failing_alone(scan: Scan) -> Iterator[list[Answer]]:
    """Yield a list that holds, after an error of this scan alone, the answer which says so."""
    failed: list[Answer] = []
    try:
        yield failed
    except OSError:  # of the machine
        raise
    except Exception as error:  # noqa: BLE001 - of this scan alone
        _log.warning("series %s failed: %s", scan.name, shortened(error))
        failed.append(Answer(scan, "failed", f"{type(error).__name__}: {shortened(error)}"))


def _dicom_results(
    reader: Reader, result: Result, summary: dict[str, Any], maps: np.ndarray | None
) -> dict[str, bytes]:
    """The DICOM objects of a result by their paths; the summary gets their names, or why there are none."""
    objects: dict[str, bytes] = {}
    why = ""
    try:
        objects = dicom_results(result, summary, maps, reader.sha256)
    except NoDicomResults as error:
        why = shortened(error)
    summary["dicom"] = {"files": sorted(objects), "why": why}
    return objects


def row_of(
    scan: Scan, status: str, why: str, summary: Mapping[str, Any] | None = None, folder: Path | None = None
) -> Row:
    """The row of a scan in the work list. status: "read", "refused", "not read" or "failed"; the last three say why."""
    first = scan.first
    name = " ".join(filter(None, (first.series_number, first.series_description)))
    place = "" if folder is None else folder.name
    return Row(first.patient, first.study, first.series, name, status, why, summary, place)


def folder_name(scan: Scan, *, apart: bool) -> str:
    """The name of a scan's folder: its UID, which may hold anything, as a file name that no other UID has.

    apart: also from scans of the same UID in other studies.
    """
    key = f"{scan.first.patient}\n{scan.first.study}\n{scan.name}" if apart else scan.name
    plain = "".join(each if each.isalnum() or each in ".-_" else "_" for each in scan.name)
    if plain == key and not plain.startswith(".") and len(plain) <= 100:
        return plain
    return f"{plain[:80].lstrip('.')}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def rows_of_others(found: Found) -> list[Row]:
    """A row for each series that holds no slices in HU."""
    return [
        Row(
            series[0].patient,
            series[0].study,
            series[0].series,
            " ".join(filter(None, (series[0].series_number, series[0].series_description))),
            "not read",
            f"{len(series)} objects that are no CT slices ({series[0].modality or 'no modality'}): {series[0].message}",
            None,
            "",
        )
        for study in found.studies
        for series in study.others
    ]
