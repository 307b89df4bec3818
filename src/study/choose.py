"""Which series of a study a detector reads, and why not the others. Headers alone decide; `judge` looks at the pixels.

Several reconstructions of one scan show the same head: of these, the axial one of soft tissue is read whose slices are
nearest in thickness to those that the detector was trained on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.ct.geometry import slice_normals
from src.study.find import Scan, Study

MOST_TILT_DEGREES = 40.0  # of an axial slice; gantries tilt by up to 30
TYPICAL_GAP_MM = 5.0  # of the competition's series: where a detector does not record its own

_ELSEWHERE = re.compile(r"CHEST|THORAX|LUNG|ABDOM|PELVI|SPINE|EXTREM|KNEE|FOOT|ANKLE|HAND|WRIST|SHOULDER|HIP|HEART|LEG")
_HEAD = re.compile(r"HEAD|BRAIN|SKULL|CRAN|NEURO|CEREB")

# Kernels by which bone or lung is reconstructed: GE's names; Siemens' H, J, B and their kin, whose number is the
# sharpness (H60 and above); Philips' D, E, YB to YD; Canon's FC30 to FC39 and FC80 and above.
_SHARP = re.compile(
    r"BONE|EDGE|LUNG|DETAIL|SHARP|ULTRA|\b(?!FC)[A-Z]{1,2}[6-9]\d[A-Z]?\b|^(D|E|YB|YC|YD)$|^FC(3\d|[89]\d|1\d\d)$"
)


@dataclass(frozen=True)
class Choice:
    """Whether a scan is read, and why (not), in words."""

    scan: Scan
    read: bool
    why: str


def choose(study: Study, *, wanted: Sequence[str] = (), everything: bool = False, gap_mm: float) -> list[Choice]:
    """Choose among the scans of a study, in its order.

    wanted: SeriesInstanceUIDs that are read whatever else there is; everything: all scans that can be heads are read.
    gap_mm: the distance of slices in the detector's training data.
    """
    refused = {id(scan): refusal(scan) for scan in study.scans}
    if wanted:
        return [
            Choice(scan, scan.uid in wanted, "asked for" if scan.uid in wanted else "another series was asked for")
            for scan in study.scans
        ]
    possible = [scan for scan in study.scans if not refused[id(scan)]]
    best: dict[int, Scan] = {}
    if not everything:
        for group in _same_scans(possible):
            first = min(group, key=lambda scan: _rank(scan, gap_mm))
            best |= {id(scan): first for scan in group}
    choices = []
    for scan in study.scans:
        chosen = best.get(id(scan), scan)
        if refused[id(scan)]:
            choices.append(Choice(scan, False, refused[id(scan)]))
        elif chosen is not scan:
            why = f"the same scan as series {chosen.first.series_number or chosen.name}, which is read"
            choices.append(Choice(scan, False, f"{why}: {_difference(scan, chosen, gap_mm)}"))
        else:
            choices.append(Choice(scan, True, describe_scan(scan)))
    return choices


def refusal(scan: Scan) -> str:
    """Why a scan is no axial CT of a head, as far as headers say; empty if it may be one."""
    first = scan.first
    if "LOCALIZER" in first.image_type or re.search(r"\b(scout|topogram|surview)\b", first.series_description, re.I):
        return "a localizer"
    if {"SCREEN SAVE", "PROTOCOL", "DOSE_INFO"} & set(first.image_type):
        return "a screen shot"
    normals = slice_normals(np.array([each.header.orientation for each in scan.slices if each.header]))
    normal = normals[np.isfinite(normals).all(axis=1)][:1]
    if len(normal) and abs(normal[0, 2]) < np.cos(np.radians(MOST_TILT_DEGREES)):
        return f"not axial: {'sagittal' if abs(normal[0, 0]) > abs(normal[0, 1]) else 'coronal'} slices"
    body = first.body_part
    if _ELSEWHERE.search(body) and not _HEAD.search(body):
        return f"BodyPartExamined is {body}"
    return ""


def is_sharp(kernel: str) -> bool:
    """Whether a ConvolutionKernel is one for bone or lung, as far as its name tells."""
    return bool(_SHARP.search(kernel.upper().split("\\")[0].strip()))


def gap_of(scan: Scan) -> float:
    """The median distance of adjacent slices in mm; NaN where it is unknown."""
    gaps = np.diff(scan.z[~np.isnan(scan.z)])
    gaps = gaps[gaps > 0]
    return float(np.median(gaps)) if len(gaps) else np.nan


def extent_of(scan: Scan) -> float:
    """From the first slice to the last in mm; 0 where it is unknown."""
    known = scan.z[~np.isnan(scan.z)]
    return float(known[-1] - known[0]) if len(known) else 0.0


def describe_scan(scan: Scan) -> str:
    """A scan in words: slices, distance, kernel."""
    gap, kernel, count = gap_of(scan), scan.first.kernel, len(scan.slices)
    parts = [
        f"{count} slice{'s' if count > 1 else ''}",
        f"every {gap:.1f} mm" if np.isfinite(gap) else "",
        f"kernel {kernel}" if kernel else "",
    ]
    return ", ".join(part for part in parts if part)


def _same_scans(scans: Sequence[Scan]) -> list[list[Scan]]:
    """Group the scans that are reconstructions of one: same frame of reference, contrast and mostly the same places."""
    groups: list[list[Scan]] = []
    for scan in scans:
        for group in groups:
            if _same_scan(group[0], scan):
                group.append(scan)
                break
        else:
            groups.append([scan])
    return groups


def _same_scan(one: Scan, other: Scan) -> bool:
    alike = all(
        getattr(one.first, name) == getattr(other.first, name)
        for name in ("frame_of_reference", "acquisition", "contrast")
    )
    if not alike or (one.uid == other.uid and one.part != other.part):
        return False
    known = [scan.z[~np.isnan(scan.z)] for scan in (one, other)]
    if not all(len(each) for each in known):
        return False
    overlap = min(each[-1] for each in known) - max(each[0] for each in known)
    return bool(overlap >= 0.5 * min(extent_of(one), extent_of(other)) and overlap >= 0)


def _rank(scan: Scan, gap_mm: float) -> tuple[bool, bool, float, int]:
    """Smaller is better: soft tissue, the whole head, thickness, more slices."""
    gap = gap_of(scan)
    return (
        is_sharp(scan.first.kernel),
        extent_of(scan) < 100,
        abs(np.log(gap / gap_mm)) if np.isfinite(gap) else np.inf,
        -len(scan.slices),
    )


def _difference(scan: Scan, chosen: Scan, gap_mm: float) -> str:
    if is_sharp(scan.first.kernel) and not is_sharp(chosen.first.kernel):
        return f"kernel {scan.first.kernel} is for bone"
    if extent_of(scan) < 100 <= extent_of(chosen):
        return f"it spans {extent_of(scan):.0f} mm"
    return f"{describe_scan(scan)}, where the detector was trained on slices every {gap_mm:.1f} mm"
