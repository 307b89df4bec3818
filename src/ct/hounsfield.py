"""From the numbers a DICOM file stores to Hounsfield units."""

import numpy as np

# The span a slice is kept at in the image store: what the three windows see (-150 .. 230 HU) and a margin, so that
# their levels and widths can be jittered in training.
STORED_RANGE = (-200, 300)


def to_hounsfield(
    stored: np.ndarray, *, slope: float, intercept: float, bits_stored: int, pixel_representation: int
) -> np.ndarray:
    """Return `stored * slope + intercept`, with the competition's wrongly stated intercepts repaired, as float32 HU.

    stored: integers of any shape, as the file stores them. The result has the same shape.

    Some scanners wrote 12-bit unsigned files whose air wrapped around to the top of the range, with an intercept near
    zero. They are told by that intercept, undone in a signed type (in uint16 the repair itself would wrap), and given
    the intercept that the repaired values stand for. Source: J. Howard, "Cleaning the data for rapid prototyping",
    fastai, 2019. The rescale itself: DICOM PS3.3 C.11.1.1.2.
    """
    if bits_stored == 12 and pixel_representation == 0 and intercept > -100:
        repaired = stored.astype(np.int32) + 1000
        stored = np.where(repaired >= 4096, repaired - 4096, repaired)
        intercept = -1000
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def to_stored_range(hu: np.ndarray) -> np.ndarray:
    """Round HU to the nearest integer and clip to STORED_RANGE: float32 -> int16, same shape."""
    return np.rint(np.clip(hu, *STORED_RANGE)).astype(np.int16)


def to_unit(stored_hu: np.ndarray) -> np.ndarray:
    """Map HU of STORED_RANGE linearly to [0, 1] float32: what augmentation and networks take."""
    low, high = STORED_RANGE
    return (stored_hu.astype(np.float32) - np.float32(low)) / np.float32(high - low)
