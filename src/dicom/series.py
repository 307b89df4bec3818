"""From DICOM files to series: which slices belong together, in order along their normal."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.ct.geometry import parallel_groups, positions_along_normal
from src.ct.series import Series
from src.dicom.file import UnreadableDicom
from src.dicom.header import Header
from src.dicom.pixels import clipped_hounsfield_of, read_stored


class PassedOver(NamedTuple):
    """A file that is in no series: why, as one of REASONS or "duplicate", and in words."""

    path: Path
    reason: str
    message: str


class _Slice(NamedTuple):
    """A readable slice."""

    id: str
    pixels: np.ndarray  # int16 HU, clipped to HU_RANGE
    z: float
    orientation: tuple[float, ...]


def find_series(paths: Iterable[Path | str]) -> tuple[list[Series], list[PassedOver]]:
    """Read the CT series of some files and folders: (series, files passed over).

    paths: DICOM files, and folders that are searched at any depth. A series is of one SeriesInstanceUID and one
    orientation, so that its slices are parallel (PS3.3 C.7.6.2.1.1) and a localizer stands apart; its slices are in
    order along the normal, those without a position last. A slice without a SeriesInstanceUID is a series by itself.
    Series come in the order in which their first file does.
    """
    slices: dict[str, list[_Slice]] = defaultdict(list)
    seen: dict[str, Path] = {}
    passed_over = []
    for path in _files(paths):
        try:
            stored, header = read_stored(path)
            pixels = clipped_hounsfield_of(stored, header)
            found = _Slice(header.SOPInstanceUID or str(path), pixels, _position(header), header.orientation)
        except UnreadableDicom as error:
            passed_over.append(PassedOver(path, error.reason, str(error)))
            continue
        first = seen.setdefault(found.id, path)
        if first != path:
            passed_over.append(PassedOver(path, "duplicate", f"the same SOPInstanceUID as {first}"))
            continue
        slices[header.SeriesInstanceUID or str(path)].append(found)
    return [_in_order(each) for same_uid in slices.values() for each in _parallel(same_uid)], passed_over


def _files(paths: Iterable[Path | str]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.is_file())
        else:
            yield path


def _position(header: Header) -> float:
    """Where a slice lies along its normal in mm; NaN where the header does not say."""
    return float(positions_along_normal(np.array([header.position]), np.array([header.orientation]))[0])


def _parallel(slices: list[_Slice]) -> Iterator[list[_Slice]]:
    groups = parallel_groups(np.array([each.orientation for each in slices]))
    for number in range(groups.max() + 1):
        yield [each for each, group in zip(slices, groups, strict=True) if group == number]


def _in_order(slices: list[_Slice]) -> Series:
    ordered = sorted(slices, key=lambda each: (np.isnan(each.z), each.z if not np.isnan(each.z) else 0.0, each.id))
    return Series(
        [each.pixels for each in ordered], np.array([each.z for each in ordered]), [each.id for each in ordered]
    )
