"""Whether a scan is a head CT that a detector can judge, by its pixels, and what a reader should know of it.

A head is told by its brain: tissue that bone surrounds within 120 mm, in three of four directions at least, so that a
skull with a hole is a skull. Ribs and the pelvis are wider and leave more open; the vertebral canal is twenty times
smaller than a brain; a phantom's shell is no bone. All areas are in cm2, all HU as the file has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from src.ct.geometry import gantry_tilt
from src.detector.folder import DistanceLimits
from src.study.choose import extent_of, gap_of, is_sharp
from src.study.find import Scan, same_places

BONE_HU = 200  # less than in its middle: the skull's thin parts share their voxels with brain
SURROUNDED = 0.75  # of all directions in which there is bone
REACH_MM = 120.0  # from the middle of the tissue; a long head is 100 mm from middle to forehead
TISSUE_HU = (-10, 80)
BRAIN_CM2 = 30.0  # surrounded, in at least one of ten slices; an adult's brain has 100 to 170 at its widest
BRAIN_MEAN_HU = (18.0, 48.0)  # of a brain's tissue, blood included; outside of it a scale is off, or contrast was given
NOISE_HU = 14.0  # deviation from slice to pixel in tissue; soft kernels give 2 to 10, bone kernels 20 and more
_DIRECTIONS = 72
WHOLE_HEAD_MM = 100.0
ADULT_YEARS = 16.0


@dataclass(frozen=True)
class Judgement:
    """refusal: why a scan is no head CT that can be judged, empty if it is one. warnings: what a reader should know."""

    refusal: str
    warnings: list[str]


def judge(scan: Scan, pixels: Sequence[np.ndarray], gap_mm: float) -> Judgement:
    """Judge a scan by its pixels, (rows, columns) of int16 HU for each slice, and by its headers.

    gap_mm: the distance of slices in the detector's training data.
    """
    measured = [measure_brain(hu, *_spacing(scan, i)) for i, hu in enumerate(pixels)]
    areas = np.array([each.area for each in measured])
    with_brain = np.flatnonzero(areas >= BRAIN_CM2)
    if len(with_brain) < max(1, len(pixels) // 10):
        most = float(areas.max()) if len(areas) else 0.0
        return Judgement(
            f"not a head CT that can be judged: bone surrounds at most {most:.0f} cm2 of tissue, in a head over 100",
            [],
        )
    means = np.array([measured[i].mean for i in with_brain])
    noise = np.array([measured[i].noise for i in with_brain])
    return Judgement("", [*_of_pixels(means, noise), *_of_headers(scan), *_of_places(scan, gap_mm)])


def warn_of_distance(distances: np.ndarray, limits: DistanceLimits) -> list[str]:
    """A warning where too many of a scan's slices, at these distances (S,), are unlike the detector's training set."""
    beyond = np.count_nonzero(distances > limits.slices)
    if beyond <= limits.series * len(distances):
        return []
    slices = "slice is" if beyond == 1 else "slices are"
    return [
        f"{beyond} of {len(distances)} {slices} unlike the detector's training data (by the distance of embeddings); "
        f"{limits.series:.0%} of a series at most are in 99 of 100 that it was tested on."
    ]


@dataclass(frozen=True)
class Brain:
    """Tissue that bone surrounds in a slice: its area in cm2, mean and noise in HU (NaN where there is none)."""

    area: float
    mean: float
    noise: float


_NO_BRAIN = Brain(0.0, np.nan, np.nan)


def measure_brain(hu: np.ndarray, row_spacing: float, column_spacing: float) -> Brain:
    """Measure the tissue that bone surrounds: (rows, columns) HU, and mm between pixels.

    Noise is the median deviation of a pixel from the mean of its neighbours, in standard deviations of white noise.
    """
    # at 1 mm, as far as the shape goes: the same for all fields of view, and fast
    size = tuple(max(1, round(n * step)) for n, step in ((hu.shape[1], column_spacing), (hu.shape[0], row_spacing)))
    if max(size) > 2000:
        return _NO_BRAIN
    scaled = cv2.resize(hu, size, interpolation=cv2.INTER_LINEAR)
    inside = _surrounded(scaled)
    area = float(np.count_nonzero(inside)) / 100
    if not area:
        return _NO_BRAIN
    tissue = cv2.resize(inside.astype(np.uint8), hu.shape[::-1], interpolation=cv2.INTER_NEAREST)
    core = cv2.erode(tissue, np.ones((3, 3), np.uint8)) == 1
    if not core.any():
        return Brain(area, float(scaled[inside].mean()), np.nan)
    values = hu.astype(np.float32)
    deviation = np.abs(values - cv2.blur(values, (3, 3)))[core]
    # the mean of nine takes a ninth of the variance away; the median of |x| is 0.6745 deviations
    noise = float(np.median(deviation)) / 0.6745 / np.sqrt(8 / 9)
    return Brain(area, float(scaled[inside].mean()), noise)


def _surrounded(hu: np.ndarray) -> np.ndarray:
    """Which pixels of 1 mm are tissue with bone around: (rows, columns) HU -> the same of booleans."""
    tissue = ((hu >= TISSUE_HU[0]) & (hu <= TISSUE_HU[1])).astype(np.uint8)
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, _, stats, centres = cv2.connectedComponentsWithStats(opened)
    if count < 2:
        return np.zeros(hu.shape, dtype=bool)
    column, row = centres[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    reach = int(REACH_MM)
    window = np.s_[max(0, int(row) - reach) : int(row) + reach, max(0, int(column) - reach) : int(column) + reach]
    y = (np.arange(hu.shape[0])[window[0]] - row)[:, None]
    x = (np.arange(hu.shape[1])[window[1]] - column)[None]
    radius = np.hypot(y, x)
    direction = ((np.arctan2(y, x) + np.pi) / (2 * np.pi) * _DIRECTIONS).astype(int) % _DIRECTIONS
    bone = (hu[window] >= BONE_HU) & (radius <= REACH_MM)
    nearest = np.full(_DIRECTIONS, np.inf)
    np.minimum.at(nearest, direction[bone], radius[bone])
    hit = np.isfinite(nearest)
    inside = np.zeros(hu.shape, dtype=bool)
    if hit.mean() >= SURROUNDED:
        nearest[~hit] = np.median(nearest[hit])
        inside[window] = (tissue[window] == 1) & (radius < nearest[direction])
    return inside


def _spacing(scan: Scan, i: int) -> tuple[float, float]:
    """mm between rows and columns; where a header lacks them, those of a field of view of 250 mm."""
    header = scan.slices[i].header
    assert header is not None  # noqa: S101 - a scan is made of such slices
    if np.isfinite(header.row_spacing) and header.row_spacing > 0 and header.column_spacing > 0:
        return header.row_spacing, header.column_spacing
    return 250 / header.rows, 250 / header.columns


def _of_pixels(means: np.ndarray, noise: np.ndarray) -> list[str]:
    warnings = []
    mean, deviation = float(np.median(means)), float(np.nanmedian(noise))
    if not BRAIN_MEAN_HU[0] <= mean <= BRAIN_MEAN_HU[1]:
        low, high = BRAIN_MEAN_HU
        warnings.append(
            f"The brain has {mean:.0f} HU on average, where {low:.0f} to {high:.0f} are usual: contrast, or a wrong "
            "scale."
        )
    if deviation > NOISE_HU:
        warnings.append(f"Noise of {deviation:.0f} HU in the brain: a bone kernel, or thin slices.")
    return warnings


def _of_headers(scan: Scan) -> list[str]:
    first, warnings = scan.first, []
    if first.contrast:
        warnings.append(f"Contrast was given ({first.contrast}): vessels and blood look alike.")
    if is_sharp(first.kernel):
        warnings.append(f"Kernel {first.kernel} is for bone.")
    if first.age < ADULT_YEARS:
        warnings.append(f"The patient is {first.age:.0f} years old; the detector may have seen adults alone.")
    if len({(each.header.rows, each.header.columns) for each in scan.slices if each.header}) > 1:
        warnings.append("Slices have different sizes.")
    return warnings


def _of_places(scan: Scan, gap_mm: float) -> list[str]:
    """What the slices' places say: missing ones, a part of a head, tilt, thickness."""
    warnings = []
    unknown, z = int(np.isnan(scan.z).sum()), scan.z[~np.isnan(scan.z)]
    if unknown:
        warnings.append(f"{unknown} of {len(scan.z)} slices have no position: each is read by itself.")
    if len(scan.z) < 10:
        warnings.append(f"Only {len(scan.z)} slice{'s' if len(scan.z) > 1 else ''}.")
    elif len(z) > 1 and extent_of(scan) < WHOLE_HEAD_MM:
        warnings.append(f"The slices span {extent_of(scan):.0f} mm: part of a head.")
    same = same_places(scan.z)
    if same:
        warnings.append(f"{same} {'slice lies' if same == 1 else 'slices lie'} where another one does.")
    gap = gap_of(scan)
    if np.isfinite(gap):
        missing = int(np.round(np.diff(z) / gap - 1)[np.diff(z) > 1.8 * gap].sum())
        if missing:
            warnings.append(f"About {missing} {'slice is' if missing == 1 else 'slices are'} missing between others.")
        if not gap_mm / 2.5 <= gap <= gap_mm * 2:
            warnings.append(f"Slices every {gap:.1f} mm; the detector was trained on slices every {gap_mm:.1f} mm.")
    tilt = _tilt(scan)
    if tilt > 30:
        warnings.append(f"The slices are tilted by {tilt:.0f} degrees.")
    return warnings


def _tilt(scan: Scan) -> float:
    """Degrees between the normal and the table's way; NaN where it is unknown."""
    headers = [each.header for each in scan.slices if each.header is not None]
    positions = np.array([header.position for header in headers])
    known = np.isfinite(positions).all(axis=1) & ~np.isnan(scan.z)
    if known.sum() < 2 or not np.ptp(positions[known, 2]):
        return float("nan")
    return gantry_tilt(positions[known], np.array(headers[int(np.flatnonzero(known)[0])].orientation))
