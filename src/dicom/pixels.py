"""The pixels of a CT slice: stored values, native or compressed, and the Hounsfield units (HU) that they stand for."""

from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from src.ct.hounsfield import AIR, HU_RANGE, clip_to_hu_range, to_clipped_hounsfield, to_hounsfield
from src.dicom.codestream import image_size
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

_PIXEL_DATA = Tag("PixelData")
_NATIVE = {str(each) for each in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)}


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
        dataset, pixels = parsed
        header = header_of(dataset)
        if header.transfer_syntax in _NATIVE:
            implicit, little = dataset.original_encoding
            value = _pixel_value(data, pixels, implicit=bool(implicit), little=bool(little))
            return _native(value, header, little=bool(little)), header
        return _decompress(data, header), header


def hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """Convert stored pixels to HU: (rows, columns) of an integer type -> (rows, columns) float32 HU.

    Padding becomes air. Raises UnreadableDicom if the rescale gives values that are not finite.
    """
    padding = _padding(stored, header)
    if header.photometric_interpretation == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: the lowest value is white, so the scale is inverted over the range of the stored bits
        low, high = _stored_limits(header)
        stored = (low + high) - stored.astype(np.int64)
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
    if header.photometric_interpretation == "MONOCHROME1" or _padding_shows(header):
        return clip_to_hu_range(hounsfield_of(stored, header))
    if header.rescale_slope != 1:
        return clip_to_hu_range(hounsfield_of(stored, header))
    return to_clipped_hounsfield(stored, **_rescale(header))  # type: ignore[arg-type]


def read_hounsfield(source: Path | Source) -> np.ndarray:
    """Read a slice: (rows, columns) float32 HU.

    Raises UnreadableDicom with a `reason` code, and OSError for errors of the machine.
    """
    return hounsfield_of(*read_stored(source))


def _pixel_value(data: bytes, at: int, *, implicit: bool, little: bool) -> memoryview:
    """The value of the uncompressed pixel data element at offset `at` of the file, without copying it.

    The element's tag, value representation and length: PS3.5 7.1.
    """
    order: Literal["little", "big"] = "little" if little else "big"
    tag = data[at : at + 4]
    if (int.from_bytes(tag[:2], order), int.from_bytes(tag[2:], order)) != (0x7FE0, 0x0010):
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    if not implicit and data[at + 4 : at + 6] not in (b"OW", b"OB", b"UN"):
        raise UnreadableDicom("bad_value", f"pixel data of the kind {data[at + 4 : at + 6]!r}; expected OW or OB")
    start = at + (8 if implicit else 12)
    length = int.from_bytes(data[start - 4 : start], order)
    if length == 0:
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    if length == 0xFFFFFFFF:
        raise UnreadableDicom("bad_value", "compressed pixels, by the header uncompressed")
    return memoryview(data)[start : start + length]


def _native(data: memoryview, header: Header, *, little: bool) -> np.ndarray:
    """Uncompressed pixels: (rows, columns) of the header's integer type, in the machine's byte order.

    PS3.5 8.1: a value takes the `bits_stored` bits of a word up to `high_bit`; the other bits are not part of it.
    """
    word = header.bits_allocated // 8
    expected = header.rows * header.columns * word
    if len(data) < expected:
        # pydicom would pad some of these files and refuse others; invented pixels must not pass for real ones
        raise UnreadableDicom("truncated", f"{len(data)} of {expected} bytes of pixels")
    kind = np.dtype(f"{'<' if little else '>'}{'ui'[header.pixel_representation]}{word}")
    if not little and word == 1:
        # PS3.5 A.3: bytes are stored in 16-bit words, and the bytes of each word are swapped
        swapped = np.frombuffer(data, np.uint16, count=len(data) // 2).byteswap().view(kind)
        stored = np.append(swapped, np.zeros(1, kind))[: header.rows * header.columns]
    else:
        stored = np.frombuffer(data, kind, count=header.rows * header.columns)
    stored = stored.reshape(header.rows, header.columns).astype(kind.newbyteorder("="), copy=False)
    return _within_bits(stored, header)


def _within_bits(stored: np.ndarray, header: Header) -> np.ndarray:
    above, unused = header.bits_allocated - 1 - header.high_bit, header.bits_allocated - header.bits_stored
    if not unused:
        return stored
    # shift up to the top of the word, then down: in a signed type this also extends the sign
    return (stored << above) >> unused


def _decompress(data: bytes, header: Header) -> np.ndarray:
    """Compressed pixels, decoded by the decoders that pydicom finds: (rows, columns) of an integer type."""
    dataset, _ = parse(data, [*HEADER_TAGS, _PIXEL_DATA])
    value = dataset.get(_PIXEL_DATA)
    if value is None or not value.value:
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    _check_compressed(value.value, header)
    try:
        stored = dataset.pixel_array
    except Exception as error:
        raise UnreadableDicom("undecodable", f"{type(error).__name__}: {error}") from error
    if stored.shape != (header.rows, header.columns):
        raise UnreadableDicom(
            "bad_value", f"pixels of shape {stored.shape}, the header says {(header.rows, header.columns)}"
        )
    return stored


def _check_compressed(data: bytes, header: Header) -> None:
    """Raise UnreadableDicom if a compressed image does not have the size that the header states.

    This comes before decoding, because decoders allocate whatever size the compressed image claims.
    """
    try:
        frame = next(generate_frames(data, number_of_frames=1))
    except Exception as error:
        raise UnreadableDicom("undecodable", f"{type(error).__name__}: {error}") from error
    if header.transfer_syntax == RLELossless:
        # at worst, a sensible encoder writes two bytes per byte of the image
        if len(frame) > 2 * header.rows * header.columns * header.bits_allocated // 8 + 64:
            raise UnreadableDicom("undecodable", "more run-length data than the image can need")
        return
    claimed = image_size(frame)
    if claimed is not None and claimed != (header.rows, header.columns):
        raise UnreadableDicom(
            "bad_value", f"a compressed image of {claimed}, the header says {(header.rows, header.columns)}"
        )


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
    low, high = sorted((int(header.padding_value), int(header.padding_limit)))
    least, most = _stored_limits(header)
    # no pixel can have a value that the stored bits cannot hold, such as -2000 in 12 unsigned bits
    return (low, high) if least <= low and high <= most else None


def _padding(stored: np.ndarray, header: Header) -> np.ndarray | None:
    """A mask of the padding, of the shape of `stored`; None if the header defines no padding."""
    ends = _padding_range(header)
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])


def _padding_shows(header: Header) -> bool:
    """Whether padding, if rescaled like other pixels, would differ from air once clipped to HU_RANGE."""
    ends = _padding_range(header)
    return ends is not None and bool((to_clipped_hounsfield(np.array(ends), **_rescale(header)) > HU_RANGE[0]).any())  # type: ignore[arg-type]
