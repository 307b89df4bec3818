"""What a renderer gives, whatever the difficulty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.sample.dicom_writer import SliceHeader


@dataclass(frozen=True)
class RenderedSlice:
    """One slice as it will be written, and the truth about it."""

    stored: NDArray[np.int16] | NDArray[np.uint16]  # (rows, columns)
    header: SliceHeader
    labels: NDArray[np.uint8]  # (6,), in the order of LABELS
    covers: dict[str, NDArray[np.float32]]  # subtype -> share of each pixel that is blood, where it is labelled
