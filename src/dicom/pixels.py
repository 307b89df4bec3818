"""The pixels of a CT slice: stored values, native or compressed, and the Hounsfield units (HU) that they stand for."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from src.ct.hounsfield import AIR, HU_RANGE, clip_to_hu_range, to_clipped_hounsfield, to_hounsfield
from src.dicom.compressed import decompress
from src.dicom.file import (
    HEAD_BYTES,
    UnreadableDicom,
    is_deflated,
    parse,
    parse_head,
    quiet_pydicom,
    read_file,
    without_deflation,
)
from src.dicom.header import HEADER_TAGS, Header, header_of
from src.dicom.sources import Source

_NATIVE = {
    str(each)
    for each in (
        ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian
    )
}  # fmt: skip


def read_stored(source: Path | Source) -> tuple[np.ndarray, Header]:
    """Read the pixels as the file stores them: ((rows, columns) of an integer type, header).

    Raises UnreadableDicom with a `reason` code, and OSError for errors of the machine.
    """
    return parse_stored(read_file(source))


def parse_stored(data: bytes) -> tuple[np.ndarray, Header]:
    """Parse the bytes of a whole file: ((rows, columns) of an integer type, header). Raises UnreadableDicom."""
    with quiet_pydicom():
        head = data[:HEAD_BYTES]
        parsed = None if is_deflated(head) else parse_head(head, HEADER_TAGS)
        if parsed is None:
            data = without_deflation(data)
            parsed = parse(data, HEADER_TAGS, stop_before_pixels=True)
        dataset, at = parsed
        header = header_of(dataset)
        element = _pixel_element(data, at)
        if header.transfer_syntax in _NATIVE:
            return _native(element, header), header
        return _within_bits(decompress(element.value, header), header), header


def hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """Convert stored pixels to HU: (rows, columns) of an integer type -> (rows, columns) float32 HU.

    Padding becomes air. The photometric interpretation has no say: the rescale is of stored values (PS3.3 C.11.1.1.2),
    and MONOCHROME1 is inverted for display only, after the VOI LUT (C.7.6.3.1.2). Raises UnreadableDicom if the rescale
    gives values that are not finite.
    """
    padding = _padding(stored, header)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        hu = to_hounsfield(stored, **_rescale(header))  # type: ignore[arg-type]
    if not np.isfinite(hu).all():
        raise UnreadableDicom("bad_value", f"HU are not finite with a RescaleSlope of {header.rescale_slope}")
    if padding is not None:
        hu[padding] = AIR
    return hu


def clipped_hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """Convert stored pixels to what the image store keeps: (rows, columns) int16 HU, clipped to HU_RANGE.

    Equal to `clip_to_hu_range(hounsfield_of(...))`, but computed in integers where possible. Raises UnreadableDicom
    like `hounsfield_of`.
    """
    if header.rescale_slope != 1 or _padding_shows(header):
        return clip_to_hu_range(hounsfield_of(stored, header))
    return to_clipped_hounsfield(stored, **_rescale(header))  # type: ignore[arg-type]


def rounded_hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """Convert stored pixels to whole HU: (rows, columns) int16. Clipped to HU_RANGE it is `clipped_hounsfield_of`.

    Raises UnreadableDicom like `hounsfield_of`.
    """
    limits = np.iinfo(np.int16)
    return np.rint(np.clip(hounsfield_of(stored, header), limits.min, limits.max)).astype(np.int16)


def read_hounsfield(source: Path | Source) -> np.ndarray:
    """Read a slice: (rows, columns) float32 HU.

    Raises UnreadableDicom with a `reason` code, and OSError for errors of the machine.
    """
    return hounsfield_of(*read_stored(source))


class _Element(NamedTuple):
    """The pixel data element of a file."""

    vr: str  # empty where it is implicit
    little: bool  # whether it is in little endian
    delimited: bool  # whether its length is undefined, as that of compressed pixels is
    value: memoryview  # then all that follows the element's header


def _pixel_element(data: bytes, at: int) -> _Element:
    """The pixel data element at offset `at` of a file, without copying its value (PS3.5 7.1).

    Its own bytes say how it is encoded, whatever the transfer syntax: lengths are even, and OW, OB and UN, read as the
    length of an implicit element, would be odd.
    """
    tag = data[at : at + 4]
    if tag not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    little = tag == b"\xe0\x7f\x10\x00"
    order: Literal["little", "big"] = "little" if little else "big"
    vr = data[at + 4 : at + 6] if data[at + 6 : at + 8] == b"\0\0" else b""
    explicit = vr in (b"OW", b"OB", b"UN")
    if not explicit and vr.isalpha() and vr.isupper() and vr[0] % 2:  # else it is the length of an implicit one
        raise UnreadableDicom("bad_value", f"pixel data of the kind {vr.decode()}; expected OW or OB")
    start = at + (12 if explicit else 8)
    length = int.from_bytes(data[start - 4 : start], order)
    if length == 0 or start >= len(data):
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    delimited = length == 0xFFFFFFFF
    value = memoryview(data)[start : len(data) if delimited else start + length]
    return _Element(vr.decode() if explicit else "", little, delimited, value)


def _native(element: _Element, header: Header) -> np.ndarray:
    """Uncompressed pixels: (rows, columns) of the header's integer type, in the machine's byte order."""
    if element.delimited:
        raise UnreadableDicom("bad_value", "compressed pixels, by the header uncompressed")
    word = header.bits_allocated // 8
    expected = header.rows * header.columns * word
    if len(element.value) < expected:
        # pydicom would pad some of these files and refuse others; invented pixels must not pass for real ones
        raise UnreadableDicom("truncated", f"{len(element.value)} of {expected} bytes of pixels")
    cells = np.dtype(f"{'<' if element.little else '>'}u{word}")
    if not element.little and word == 1 and element.vr == "OW":
        # PS3.5 7.3, A.3: 16-bit words have their bytes swapped, also where a word holds two pixels; OB has no words
        swapped = np.frombuffer(element.value, np.uint16, count=len(element.value) // 2).byteswap().view(cells)
        stored = np.append(swapped, np.zeros(1, cells))[: header.rows * header.columns]
    else:
        stored = np.frombuffer(element.value, cells, count=header.rows * header.columns)
    stored = stored.reshape(header.rows, header.columns).astype(cells.newbyteorder("="), copy=False)
    return _within_bits(stored, header)


def _within_bits(cells: np.ndarray, header: Header) -> np.ndarray:
    """From cells to values: (rows, columns) of the header's integer type, for every transfer syntax.

    PS3.5 8.1.1: a value takes the `bits_stored` bits of a cell up to `high_bit`; the other bits are not part of it.
    """
    word = header.bits_allocated // 8
    stored = cells.astype(f"u{word}", copy=False).view(f"{'ui'[header.pixel_representation]}{word}")
    above, unused = header.bits_allocated - 1 - header.high_bit, header.bits_allocated - header.bits_stored
    if not unused:
        return stored
    # shift up to the top of the cell, then down: in a signed type this also extends the sign
    return (stored << above) >> unused


def _rescale(header: Header) -> dict[str, float | int]:
    return {
        "slope": header.rescale_slope,
        "intercept": header.rescale_intercept,
        "bits_stored": header.bits_stored,
        "pixel_representation": header.pixel_representation,
    }


def _stored_limits(header: Header) -> tuple[int, int]:
    if header.pixel_representation == 1:
        return -(1 << (header.bits_stored - 1)), (1 << (header.bits_stored - 1)) - 1
    return 0, (1 << header.bits_stored) - 1


def _padding_range(header: Header) -> tuple[int, int] | None:
    """The range of stored values that are padding, both ends included (PS3.3 C.7.5.1.1.2); None if there are none."""
    if np.isnan(header.padding_value):
        return None
    low, high = sorted(_as_stored(int(value), header) for value in (header.padding_value, header.padding_limit))
    least, most = _stored_limits(header)
    # no pixel can have a value that the stored bits cannot hold, such as -2000 in 12 unsigned bits
    return (low, high) if least <= low and high <= most else None


def _as_stored(padding: int, header: Header) -> int:
    """A padding value as pixels have it: some writers state it as unsigned where pixels are signed."""
    size = 1 << header.bits_stored
    return padding - size if header.pixel_representation == 1 and size // 2 <= padding < size else padding


def _padding(stored: np.ndarray, header: Header) -> np.ndarray | None:
    """A mask of the padding, of the shape of `stored`; None if the header defines no padding."""
    ends = _padding_range(header)
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])


def _padding_shows(header: Header) -> bool:
    """Whether padding, if rescaled like other pixels, would differ from air once clipped to HU_RANGE."""
    ends = _padding_range(header)
    return ends is not None and bool((to_clipped_hounsfield(np.array(ends), **_rescale(header)) > HU_RANGE[0]).any())  # type: ignore[arg-type]
