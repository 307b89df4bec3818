"""How scanners store Hounsfield units: the four encodings found in the competition's files.

stored * RescaleSlope + RescaleIntercept gives HU (PS3.3 C.11.1.1.2), except in `WRAPPED`, whose header is wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WRAP = 4096  # number of 12-bit values


@dataclass(frozen=True)
class Encoding:
    """The pixel tags of a series, and the conversion from HU to stored values."""

    bits_stored: int
    signed: bool
    intercept: int  # as written in the header
    padding_hu: int | None = None  # stored outside the reconstruction circle; None for no padding
    wraps: bool = False

    def to_stored(self, hu: NDArray[np.float32], outside: NDArray[np.bool_]) -> NDArray[np.int16] | NDArray[np.uint16]:
        """Encode a slice.

        hu: (rows, columns) HU. outside: the same shape, true outside the reconstruction circle.
        Returns int16 or uint16 of the same shape; every value fits in `bits_stored` bits.
        """
        if self.padding_hu is not None:
            hu = np.where(outside, np.float32(self.padding_hu), hu)
        rounded = np.rint(hu).astype(np.int32)
        if self.wraps:
            # the usual repair undoes this: add 1000, subtract 4096 where that reaches 4096, set the intercept to -1000
            return (np.clip(rounded, -1000, _WRAP - 1001) % _WRAP).astype(np.uint16)
        stored = rounded - self.intercept
        if self.signed:
            half = 1 << (self.bits_stored - 1)
            return np.clip(stored, -half, half - 1).astype(np.int16)
        return np.clip(stored, 0, (1 << self.bits_stored) - 1).astype(np.uint16)


SIGNED = Encoding(bits_stored=16, signed=True, intercept=-1024, padding_hu=-3024)
SIGNED_NO_INTERCEPT = Encoding(bits_stored=16, signed=True, intercept=0, padding_hu=-2000)
UNSIGNED_12 = Encoding(bits_stored=12, signed=False, intercept=-1024)
WRAPPED = Encoding(bits_stored=12, signed=False, intercept=0, wraps=True)

ENCODINGS = {
    "16-bit signed": SIGNED,
    "12-bit unsigned": UNSIGNED_12,
    "wrapped": WRAPPED,
    "16-bit signed without intercept": SIGNED_NO_INTERCEPT,
}
