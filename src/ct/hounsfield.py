"""Conversion of the values stored in a DICOM file to Hounsfield units."""

import numpy as np

AIR = -1000  # HU

# The range of HU that the image store keeps: that of the three windows (-150 .. 230 HU) and a margin, so that their
# levels and widths can be jittered in training.
HU_RANGE = (-200, 300)

_WRAP = 4096  # number of values of 12 bits
_WRONG_INTERCEPT = 0  # of the competition's files whose values wrapped; one off is taken for it too


def to_hounsfield(
    stored: np.ndarray, *, slope: float, intercept: float, bits_stored: int, pixel_representation: int
) -> np.ndarray:
    """Return `stored * slope + intercept` as float32 HU, after repairing the competition's wrong intercepts.

    stored: integers of any shape, as stored in the file. The result has the same shape.

    Some scanners wrote 12-bit unsigned files whose air wrapped around to the top of the range, with an intercept of 0
    where -1000 was meant. Such files are recognised by all of these, and by values that did wrap (3096, which stands
    for -1000 HU, and above). Their wrapped values are 4096 too high, the others are HU as they are. Nothing else is
    changed. Source: J. Howard, "Cleaning the data for rapid prototyping", fastai, 2019, who repairs every intercept
    above -100. The rescale itself: DICOM PS3.3 C.11.1.1.2.
    """
    if _is_wrapped(stored, slope, intercept, bits_stored, pixel_representation):
        return _unwrapped(stored).astype(np.float32)
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def clip_to_hu_range(hu: np.ndarray) -> np.ndarray:
    """Round HU to the nearest integer and clip to HU_RANGE: float32 -> int16, same shape."""
    return np.rint(np.clip(hu, *HU_RANGE)).astype(np.int16)


def to_clipped_hounsfield(
    stored: np.ndarray, *, slope: float, intercept: float, bits_stored: int, pixel_representation: int
) -> np.ndarray:
    """`clip_to_hu_range(to_hounsfield(stored, ...))`, in integer arithmetic where that is exact: int16 HU, same shape.

    It is exact for a slope of 1, an integer intercept and values of at most 16 bits, which nearly all files have, and
    many times as fast as with float32.
    """
    if slope != 1 or not float(intercept).is_integer() or stored.dtype.itemsize > 2:
        rescale = {"slope": slope, "intercept": intercept}
        bits = {"bits_stored": bits_stored, "pixel_representation": pixel_representation}
        return clip_to_hu_range(to_hounsfield(stored, **rescale, **bits))  # type: ignore[arg-type]
    if _is_wrapped(stored, slope, intercept, bits_stored, pixel_representation):
        stored, intercept = _unwrapped(stored), 0
    elif stored.dtype.itemsize == 1:
        stored = stored.astype(np.int16)
    shift, limits = int(intercept), np.iinfo(stored.dtype)
    low, high = (bound - shift for bound in HU_RANGE)  # the range, in stored values
    if low > limits.max or high < limits.min:  # no value of this type lies in the range
        return np.full(stored.shape, HU_RANGE[0] if low > limits.max else HU_RANGE[1], dtype=np.int16)
    clipped = np.clip(stored, stored.dtype.type(max(low, limits.min)), stored.dtype.type(min(high, limits.max)))
    # modulo 2**16 on purpose: the sum lies in the range even where a term wraps
    return clipped.view(np.int16) + np.array(shift % 0x10000, dtype=np.uint16).view(np.int16)


def to_unit(stored_hu: np.ndarray) -> np.ndarray:
    """Map HU in HU_RANGE linearly to [0, 1] float32, the input of augmentation and networks."""
    low, high = HU_RANGE
    unit = stored_hu.astype(np.float32)
    unit -= np.float32(low)  # in place, because new memory costs a loader more than the arithmetic
    unit /= np.float32(high - low)
    return unit


def _is_wrapped(
    stored: np.ndarray, slope: float, intercept: float, bits_stored: int, pixel_representation: int
) -> bool:
    if not (bits_stored == 12 and pixel_representation == 0 and slope == 1):
        return False
    if abs(intercept - _WRONG_INTERCEPT) > 1:
        return False
    return bool(stored.size and stored.max() >= _WRAP + AIR)


def _unwrapped(stored: np.ndarray) -> np.ndarray:
    """HU as int16; in a signed type, since in uint16 the repair itself would wrap."""
    stored = stored.astype(np.int16)
    return np.where(stored >= _WRAP + AIR, stored - np.int16(_WRAP), stored)
