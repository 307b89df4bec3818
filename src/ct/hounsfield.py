"""From the numbers a DICOM file stores to Hounsfield units."""

import numpy as np

AIR = -1000  # HU

# The span a slice is kept at in the image store: what the three windows see (-150 .. 230 HU) and a margin, so that
# their levels and widths can be jittered in training.
STORED_RANGE = (-200, 300)

_WRAP = 4096  # the values of 12 bits
_REPAIRED_INTERCEPT = -1000


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
    if _is_wrapped(bits_stored, pixel_representation, intercept):
        repaired = stored.astype(np.int32) - _REPAIRED_INTERCEPT
        stored = np.where(repaired >= _WRAP, repaired - _WRAP, repaired)
        intercept = _REPAIRED_INTERCEPT
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def to_stored_range(hu: np.ndarray) -> np.ndarray:
    """Round HU to the nearest integer and clip to STORED_RANGE: float32 -> int16, same shape."""
    return np.rint(np.clip(hu, *STORED_RANGE)).astype(np.int16)


def to_stored_hounsfield(
    stored: np.ndarray, *, slope: float, intercept: float, bits_stored: int, pixel_representation: int
) -> np.ndarray:
    """`to_stored_range(to_hounsfield(stored, ...))`, in integers wherever they can say it: int16 HU, same shape.

    That is so for a slope of 1, a whole intercept and values of at most 16 bits: nearly every file there is, and many
    times as fast as by way of float32.
    """
    if slope != 1 or not float(intercept).is_integer() or stored.dtype.itemsize > 2:
        rescale = {"slope": slope, "intercept": intercept}
        bits = {"bits_stored": bits_stored, "pixel_representation": pixel_representation}
        return to_stored_range(to_hounsfield(stored, **rescale, **bits))  # type: ignore[arg-type]
    if _is_wrapped(bits_stored, pixel_representation, intercept):
        # the repair and its intercept cancel out: values that did not wrap are HU, those that did are 4096 too high
        stored = stored.astype(np.int16)
        stored = np.where(stored >= _WRAP + _REPAIRED_INTERCEPT, stored - np.int16(_WRAP), stored)
        intercept = 0
    elif stored.dtype.itemsize == 1:
        stored = stored.astype(np.int16)
    shift, limits = int(intercept), np.iinfo(stored.dtype)
    low, high = (bound - shift for bound in STORED_RANGE)  # the range, in stored values
    if low > limits.max or high < limits.min:  # nothing that this type can hold lies within
        return np.full(stored.shape, STORED_RANGE[0] if low > limits.max else STORED_RANGE[1], dtype=np.int16)
    clipped = np.clip(stored, stored.dtype.type(max(low, limits.min)), stored.dtype.type(min(high, limits.max)))
    # modulo 2**16 on purpose: the sum lies within the range, whatever the terms do
    return clipped.view(np.int16) + np.array(shift % 0x10000, dtype=np.uint16).view(np.int16)


def to_unit(stored_hu: np.ndarray) -> np.ndarray:
    """Map HU of STORED_RANGE linearly to [0, 1] float32: what augmentation and networks take."""
    low, high = STORED_RANGE
    unit = stored_hu.astype(np.float32)
    unit -= np.float32(low)  # in place: fresh memory costs a loader more than the arithmetic
    unit /= np.float32(high - low)
    return unit


def _is_wrapped(bits_stored: int, pixel_representation: int, intercept: float) -> bool:
    return bits_stored == 12 and pixel_representation == 0 and intercept > -100
