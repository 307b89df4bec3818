"""What both renderers (easy and hard) return: a slice as it will be written, and its true labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.labels import LABELS
from src.synthetic.dicom_writer import SliceHeader
from src.synthetic.encoding import ENCODINGS
from src.synthetic.plan import Study


@dataclass(frozen=True)
class RenderedSlice:
    """One slice as it will be written, and its true labels."""

    stored: NDArray[np.int16] | NDArray[np.uint16]  # (rows, columns)
    header: SliceHeader
    labels: NDArray[np.uint8]  # (6,), in the order of LABELS
    covers: dict[str, NDArray[Any]]  # labelled subtype -> fraction of each pixel that is blood


def render(
    study: Study,
    index: int,
    hu: NDArray[Any],
    covers: dict[str, NDArray[Any]],
    *,
    pixel_mm: float,
    tilt: float,
    table_mm: float,
) -> RenderedSlice:
    """Encode a slice and compute its position.

    hu: (rows, columns) HU. covers: as in RenderedSlice, for the subtypes to label. tilt: of the gantry about x, in
    radians. table_mm: z of the centre of the image in the scanner.
    """
    x, y = (
        (np.arange(count, dtype=np.float32) - np.float32((count - 1) / 2)) * np.float32(pixel_mm)
        for count in (study.columns, study.rows)
    )
    encoding = ENCODINGS[study.encoding]
    outside = np.hypot(x, y[:, None]) > pixel_mm * study.rows / 2
    # the table moves along z; a tilted gantry rotates the section about x
    position = (float(x[0]), float(y[0] * np.cos(tilt)), float(table_mm - y[0] * np.sin(tilt)))
    header = SliceHeader(
        slice_id=study.slice_ids[index],
        patient_id=study.patient_id,
        study_id=study.study_id,
        series_id=study.series_id,
        position=position,
        tilt=tilt,
        pixel_mm=pixel_mm,
        encoding=encoding,
        explicit_vr=study.explicit_vr,
        window=study.window,
    )
    labels = np.array([name in covers or (name == "any" and bool(covers)) for name in LABELS], dtype=np.uint8)
    return RenderedSlice(encoding.to_stored(hu, outside), header, labels, covers)
