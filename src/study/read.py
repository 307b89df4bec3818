"""The pixels of a scan, from its files: whole HU, slice by slice, without those that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.ct.series import Series
from src.dicom.description import Description, path_of
from src.dicom.enhanced import split_frames
from src.dicom.file import MAX_ENHANCED_BYTES, UnreadableDicom, read_bytes, read_file
from src.dicom.pixels import parse_stored, rounded_hounsfield_of
from src.dicom.series import PassedOver
from src.progress import Watch, unwatched
from src.study.find import Scan


@dataclass(frozen=True)
class ReadScan:
    """A scan with its pixels: (rows, columns) of int16 HU for each slice; and the slices of it that cannot be read."""

    scan: Scan
    pixels: Sequence[np.ndarray]
    unreadable: Sequence[PassedOver]

    @property
    def series(self) -> Series:
        """What a detector takes."""
        return Series(self.pixels, self.scan.z, [each.id for each in self.scan.slices])


def read_scan(scan: Scan, *, watch: Watch = unwatched) -> ReadScan:
    """Read the pixels of a scan. Raises OSError for errors of the machine; all else is in `unreadable`.

    watch: is told of slices, those of files of many frames aside.
    """
    pixels: dict[str, np.ndarray] = {}
    unreadable = []
    frames: dict[object, list[Description]] = {}
    for number, each in enumerate(scan.slices):
        watch(number, len(scan.slices))
        if each.frame:
            frames.setdefault(each.source, []).append(each)
            continue
        try:
            pixels[each.id] = rounded_hounsfield_of(*parse_stored(read_file(each.source)))
        except UnreadableDicom as error:
            unreadable.append(PassedOver(path_of(each.source), error.reason, str(error)))
    for several in frames.values():
        try:
            pixels |= _read_frames(several)
        except UnreadableDicom as error:
            unreadable.append(PassedOver(path_of(several[0].source), error.reason, str(error)))
    kept = [i for i, each in enumerate(scan.slices) if each.id in pixels]
    left = Scan([scan.slices[i] for i in kept], scan.z[kept], scan.part)
    return ReadScan(left, [pixels[each.id] for each in left.slices], unreadable)


def _read_frames(wanted: Sequence[Description]) -> dict[str, np.ndarray]:
    """The frames of one file, by the ids of their slices."""
    ids = {each.frame: each.id for each in wanted}
    data = read_bytes(wanted[0].source, None, limit=MAX_ENHANCED_BYTES)[0]
    return {
        ids[number]: rounded_hounsfield_of(*parse_stored(file))
        for number, file in enumerate(split_frames(data), start=1)
        if number in ids
    }
