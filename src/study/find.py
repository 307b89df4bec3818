"""Find the studies in files of any kind: headers alone, told apart by study, series, orientation and acquisition."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.ct.geometry import parallel_groups, positions_along_normal
from src.dicom.description import Description, path_of
from src.dicom.series import PassedOver
from src.preprocess.describe_files import describe_files
from src.progress import Watch, unwatched

_SAME_PLACE_MM = 0.01


@dataclass(frozen=True)
class Scan:
    """Parallel slices of one series, in order along their normal: what a detector may be asked to read.

    z: (S,) mm along the normal, NaN where a slice has no position. part: from 1 where a series was taken apart, by
    orientation or by acquisition; else 0.
    """

    slices: Sequence[Description]
    z: np.ndarray
    part: int

    @property
    def first(self) -> Description:
        """The first slice, which speaks for the series."""
        return self.slices[0]

    @property
    def uid(self) -> str:
        """The SeriesInstanceUID."""
        return self.first.series

    @property
    def name(self) -> str:
        """A name for people, and for the folder of the results: the UID, with the part where there are several.

        A series without a UID is named after its first slice.
        """
        uid = self.uid or f"series-{hashlib.sha256(self.first.id.encode()).hexdigest()[:16]}"
        return f"{uid}.part{self.part}" if self.part else uid


@dataclass(frozen=True)
class Study:
    """The scans of one study, and the objects of it that are no slices in HU: their descriptions by series."""

    uid: str
    patient: str
    scans: Sequence[Scan]
    others: Sequence[Sequence[Description]]


@dataclass(frozen=True)
class Found:
    """Studies in the order of their first file, and files that are in none, with the reason."""

    studies: Sequence[Study]
    passed_over: Sequence[PassedOver]
    n_files: int


def find_studies(paths: Sequence[Path], *, watch: Watch = unwatched, **engine: Any) -> Found:
    """Find the studies below some paths: DICOM files, folders at any depth, zip archives.

    watch: is told of files. engine: as for `run_tasks`. Raises UserError for a path that does not exist; whatever is
    wrong with a file below them is in `passed_over`.
    """
    described = describe_files(paths, watch=watch, **engine)
    return Found(_studies(described.objects), described.passed_over, described.n_files)


def _studies(slices: Sequence[Description]) -> list[Study]:
    # anonymisers leave UIDs empty: the patient, then the folder, stand in for them
    by_study: dict[tuple[str, str], list[Description]] = defaultdict(list)
    for each in slices:
        by_study[each.patient, each.study or str(path_of(each.source).parent)].append(each)
    studies = []
    for (patient, uid), members in by_study.items():
        by_series: dict[str, list[Description]] = defaultdict(list)
        for each in members:
            by_series[each.series].append(each)
        scans: list[Scan] = []
        others = []
        for series in by_series.values():
            usable = [each for each in series if each.header is not None]
            if usable:
                scans += _scans(usable)
            if len(usable) < len(series):
                others.append([each for each in series if each.header is None])
        studies.append(Study(uid, patient, scans, others))
    return studies


def _scans(series: Sequence[Description]) -> list[Scan]:
    """Take the slices of a series apart by orientation, and by acquisition where several cover the same places."""
    headers = [each.header for each in series if each.header is not None]
    orientations = np.array([header.orientation for header in headers])
    z = positions_along_normal(np.array([header.position for header in headers]), orientations)
    groups = parallel_groups(orientations)
    parts = []
    for number in range(groups.max() + 1):
        parts += _acquisitions(np.flatnonzero(groups == number), z, series)
    scans = []
    for part, rows in enumerate(parts):
        order = rows[np.lexsort(([series[i].id for i in rows], z[rows]))]  # NaN last
        scans.append(Scan([series[i] for i in order], z[order], part + 1 if len(parts) > 1 else 0))
    return scans


def _acquisitions(rows: np.ndarray, z: np.ndarray, series: Sequence[Description]) -> list[np.ndarray]:
    """Slices at the same places that acquisitions keep apart are scans of their own; all others are one."""
    acquisitions = np.array([series[i].acquisition for i in rows])
    if len(set(acquisitions)) == 1 or not same_places(z[rows]):
        return [rows]
    apart = [rows[acquisitions == each] for each in dict.fromkeys(acquisitions.tolist())]
    return [rows] if any(same_places(z[each]) for each in apart) else apart


def same_places(z: np.ndarray) -> int:
    """How many slices lie where another one does: z (S,) mm."""
    known = np.sort(z[~np.isnan(z)])
    return int(np.count_nonzero(np.diff(known) < _SAME_PLACE_MM))
