"""The only reader of DICOM: headers, stored pixels and Hounsfield units of single-frame CT slices.

A slice is a file by itself, or a member of an archive. Whatever is wrong with it comes out as one exception,
UnreadableDicom, with a reason code:

    missing_file      no such file, or it cannot be opened or read
    damaged_archive   the archive does not hold what its directory says
    not_dicom         not a DICOM file, or its header cannot be parsed
    missing_tag       a tag without which pixels mean nothing (rows, columns, bits, ...) is absent or empty
    not_a_slice       several frames, several samples per pixel (colour), or not monochrome
    bad_value         a tag holds what it cannot hold
    too_large         larger than any CT slice: MAX_PIXELS or MAX_BYTES
    no_pixels         no pixel data
    truncated         fewer pixel bytes than the header promises
    undecodable       the transfer syntax or the compressed data cannot be decoded

What a file says of its own size is never believed before it is checked: nothing is allocated beyond a few times
MAX_BYTES, whatever the header, a compressed image or a deflated data set claims.
"""

import errno
import io
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from src.ct.hounsfield import AIR, STORED_RANGE, to_hounsfield, to_stored_hounsfield, to_stored_range
from src.errors import first_few
from src.files.archive import DamagedMember, Member
from src.files.codestream import image_size
from src.files.sources import Source

REASONS = (
    "missing_file",
    "damaged_archive",
    "not_dicom",
    "missing_tag",
    "not_a_slice",
    "bad_value",
    "too_large",
    "no_pixels",
    "truncated",
    "undecodable",
)

MAX_PIXELS = 2048 * 2048  # four times the largest matrix of a clinical CT scanner, 1024 x 1024
MAX_BYTES = 64 * 1024 * 1024  # of a file: MAX_PIXELS of 32 bits are a quarter of it

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_HEAD_BYTES = 16 * 1024  # the competition's headers take 1 to 2 KiB, a clinical one with private tags some 10

_NUMBER_TAGS = {
    name: Tag(name)
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SamplesPerPixel",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "PixelSpacing",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "RescaleIntercept",
        "RescaleSlope",
    )
}
_TEXT_TAGS = {
    name: Tag(name) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "PhotometricInterpretation")
}
_HEADER_TAGS = [*_NUMBER_TAGS.values(), *_TEXT_TAGS.values()]
_PIXEL_DATA = Tag("PixelData")
_NATIVE = {str(each) for each in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)}

# errors of a single file; any other (too many open files, a vanished mount) is the machine's and ends the run
_FILE_ERRORS = {
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "EIO", "ENXIO")
}


class UnreadableDicom(Exception):  # noqa: N818 - it names the state of a file
    """A file that gives no CT slice. `reason` is one of REASONS, the text says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever a decoder says
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What a slice's header says. NaN or an empty string stands for an absent tag that a slice can do without."""

    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    position: tuple[float, float, float]  # mm, of the centre of the first pixel
    orientation: tuple[float, float, float, float, float, float]  # direction cosines of a row and of a column
    row_spacing: float  # mm between the centres of neighbouring rows
    column_spacing: float  # mm
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int  # 0 unsigned, 1 two's complement
    photometric_interpretation: str
    rescale_slope: float
    rescale_intercept: float
    padding_value: float  # stored value of pixels that are no part of the image
    padding_limit: float  # the other end of their range; padding_value where there is one value only
    transfer_syntax: str


def read_header(source: Path | Source) -> Header:
    """Read a slice's header, never its pixels. Raises UnreadableDicom."""
    with _pydicom_quiet():
        head, whole = _read(source, _HEAD_BYTES)
        dataset, _ = (None if whole else _parse_head(_without_deflation(head))) or _parse(
            _without_deflation(head if whole else _read(source, None)[0]), _HEADER_TAGS, stop_before_pixels=True
        )
        return _header(dataset)


def read_file(source: Path | Source) -> bytes:
    """All bytes of a slice's file. Raises UnreadableDicom where there are none, or too many."""
    return _read(source, None)[0]


def read_stored(source: Path | Source) -> tuple[np.ndarray, Header]:
    """Read the pixels as the file stores them: ((rows, columns) of an integer type, header). Raises UnreadableDicom."""
    return parse_stored(read_file(source))


def parse_stored(data: bytes) -> tuple[np.ndarray, Header]:
    """What `read_stored` reads, from the file's bytes."""
    with _pydicom_quiet():
        head = data[:_HEAD_BYTES]
        parsed = None if _DEFLATED in head else _parse_head(head)
        if parsed is None:
            data = _without_deflation(data)
            parsed = _parse(data, _HEADER_TAGS, stop_before_pixels=True)
        dataset, pixels = parsed
        header = _header(dataset)
        if header.transfer_syntax in _NATIVE:
            implicit, little = dataset.original_encoding
            value = _pixel_value(data, pixels, implicit=bool(implicit), little=bool(little))
            return _native(value, header, little=bool(little)), header
        return _decompress(data, header), header


def hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """The HU that stored pixels stand for: (rows, columns) of an integer type -> (rows, columns) float32 HU.

    Padding becomes air. Raises UnreadableDicom where the rescale leads out of all bounds.
    """
    padding = _padding(stored, header)
    if header.photometric_interpretation == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: the lowest value is white, so the scale runs backwards over the range of the stored bits
        low, high = _stored_limits(header)
        stored = (low + high) - stored.astype(np.int64)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        hu = to_hounsfield(stored, **_rescale(header))  # type: ignore[arg-type]
    if not np.isfinite(hu).all():
        raise UnreadableDicom("bad_value", f"HU are not finite with a RescaleSlope of {header.rescale_slope}")
    if padding is not None:
        hu[padding] = AIR
    return hu


def stored_hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """What the image store keeps of stored pixels: (rows, columns) int16 HU, clipped to STORED_RANGE.

    `to_stored_range(hounsfield_of(...))`, in integers where that is possible. Raises UnreadableDicom like it.
    """
    if header.photometric_interpretation == "MONOCHROME1" or _padding_shows(header):
        return to_stored_range(hounsfield_of(stored, header))
    if header.rescale_slope != 1:
        return to_stored_range(hounsfield_of(stored, header))
    return to_stored_hounsfield(stored, **_rescale(header))  # type: ignore[arg-type]


def read_hounsfield(source: Path | Source) -> np.ndarray:
    """Read a slice: (rows, columns) float32 HU. Raises UnreadableDicom with a `reason` code."""
    return hounsfield_of(*read_stored(source))


@contextmanager
def _pydicom_quiet() -> Iterator[None]:
    """Let nothing of pydicom's out but its results: no warnings, no exceptions of its own.

    The competition's UIDs (`ID_...`) are no valid ones: pydicom would warn of each, whenever a tag is looked at. On
    damaged files it and its decoders raise whatever the damage leads them to, also when a tag is looked at. Errors of
    the machine come from `_read` as what they are.
    """
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            yield
        except (UnreadableDicom, OSError):
            raise
        except Exception as error:
            raise UnreadableDicom("bad_value", f"{type(error).__name__}: {error}") from error


def _read(source: Path | Source, at_most: int | None) -> tuple[bytes, bool]:
    """The bytes of a slice's file, or the first of them; and whether that is all of it."""
    if isinstance(source, Member):
        if source.size > MAX_BYTES:
            raise UnreadableDicom("too_large", f"{source.size} bytes; a CT slice has at most {MAX_BYTES}")
        try:
            return source.read(at_most), at_most is None or at_most >= source.size
        except DamagedMember as error:
            raise UnreadableDicom("damaged_archive", str(error)) from error
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise UnreadableDicom("damaged_archive", f"{source.archive}: {error.strerror}") from error
    try:
        # not blocking: a named pipe would wait for ever
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:  # noqa: PTH123
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise UnreadableDicom("missing_file", "not a file but a folder, a pipe or a device")
            if state.st_size > MAX_BYTES:
                raise UnreadableDicom("too_large", f"{state.st_size} bytes; a CT slice has at most {MAX_BYTES}")
            whole = at_most is None or at_most >= state.st_size
            return file.read(state.st_size if whole else at_most), whole
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise UnreadableDicom("missing_file", "no such file" if absent else str(error.strerror)) from error


def _parse_head(head: bytes) -> tuple[pydicom.Dataset, int] | None:
    """Parse the head of a file like `_parse`; None where it does not reach the pixels."""
    try:
        dataset, pixels = _parse(head, _HEADER_TAGS, stop_before_pixels=True)
    except UnreadableDicom:  # cut off in the middle of an element, or worse, which the whole file will show
        return None
    return (dataset, pixels) if pixels < len(head) else None


def _parse(data: bytes, tags: list[BaseTag], *, stop_before_pixels: bool = False) -> tuple[pydicom.Dataset, int]:
    """(tags of a file, where in it the parser stopped: at the pixels' tag, or at the end)."""
    buffer = io.BytesIO(data)
    try:
        dataset = pydicom.dcmread(buffer, specific_tags=list(tags), stop_before_pixels=stop_before_pixels)
    except Exception as error:
        raise UnreadableDicom("not_dicom", f"{type(error).__name__}: {error}") from error
    return dataset, buffer.tell()


_DEFLATED = b"1.2.840.10008.1.2.1.99"  # deflated explicit VR little endian, PS3.5 A.5
_INFLATED = b"1.2.840.10008.1.2.1\0\0\0"  # the same without deflation, padded to the same length


def _without_deflation(data: bytes) -> bytes:
    """Inflate a deflated data set, so that pydicom, which would do so without a limit, never has to.

    Its name is taken out wherever else it stands, too: no tag that is read here can hold it.
    """
    if _DEFLATED not in data:
        return data
    # (0002,0000), the first element after preamble and prefix, says where the data set begins (PS3.10 7.1)
    start = 144 + int.from_bytes(data[140:144], "little")
    meta, body = data[:start], data[start:]
    if data[132:140] == b"\x02\x00\x00\x00UL\x04\x00" and _DEFLATED in meta:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        body = inflater.decompress(body, MAX_BYTES)
        if inflater.unconsumed_tail:
            raise UnreadableDicom("too_large", f"inflates to more than {MAX_BYTES} bytes")
    return meta.replace(_DEFLATED, _INFLATED) + body.replace(_DEFLATED, _INFLATED)


def _pixel_value(data: bytes, at: int, *, implicit: bool, little: bool) -> memoryview:
    """The value of the uncompressed pixel data element that begins at a place in the file, without a copy of it.

    Its tag, value representation and length: PS3.5 7.1.
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


def _decompress(data: bytes, header: Header) -> np.ndarray:
    """Compressed pixels, through the decoders that pydicom finds: (rows, columns) of an integer type."""
    dataset, _ = _parse(data, [*_HEADER_TAGS, _PIXEL_DATA])
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


def _native(data: memoryview, header: Header, *, little: bool) -> np.ndarray:
    """Uncompressed pixels: (rows, columns) of the integer type that the header describes, in the machine's byte order.

    PS3.5 8.1: a value takes `bits_stored` bits up to `high_bit` of a word; the others hold no part of it.
    """
    word = header.bits_allocated // 8
    expected = header.rows * header.columns * word
    if len(data) < expected:
        # pydicom would pad or refuse according to the case; a slice with invented pixels must not pass for one
        raise UnreadableDicom("truncated", f"{len(data)} of {expected} bytes of pixels")
    kind = np.dtype(f"{'<' if little else '>'}{'ui'[header.pixel_representation]}{word}")
    if not little and word == 1:
        # PS3.5 A.3: bytes lie in words of 16 bits, whose bytes are swapped
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
    # up against the top of the word, then down: in a signed type that also extends the sign
    return (stored << above) >> unused


def _check_compressed(data: bytes, header: Header) -> None:
    """Raise UnreadableDicom where a compressed image would decode to something else than the header promises.

    Decoders allocate what the compressed image itself claims.
    """
    try:
        frame = next(generate_frames(data, number_of_frames=1))
    except Exception as error:
        raise UnreadableDicom("undecodable", f"{type(error).__name__}: {error}") from error
    if header.transfer_syntax == RLELossless:
        # runs of two bytes are the worst that a sensible encoder makes of any image
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
    """The stored values that are padding, both ends included (PS3.3 C.7.5.1.1.2); None where there are none."""
    if np.isnan(header.padding_value):
        return None
    low, high = sorted((int(header.padding_value), int(header.padding_limit)))
    least, most = _stored_limits(header)
    # a value that the stored bits cannot hold, such as -2000 of 12 unsigned bits, is no pixel's
    return (low, high) if least <= low and high <= most else None


def _padding(stored: np.ndarray, header: Header) -> np.ndarray | None:
    ends = _padding_range(header)
    return None if ends is None else (stored >= ends[0]) & (stored <= ends[1])


def _padding_shows(header: Header) -> bool:
    """Whether padding would be told from air within STORED_RANGE, if it were taken for pixels."""
    ends = _padding_range(header)
    return ends is not None and bool((to_stored_hounsfield(np.array(ends), **_rescale(header)) > STORED_RANGE[0]).any())  # type: ignore[arg-type]


def _header(dataset: pydicom.Dataset) -> Header:
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableDicom("missing_tag", "TransferSyntaxUID is absent")
    if _number(dataset, "NumberOfFrames", default=1) != 1:
        raise UnreadableDicom("not_a_slice", "several frames; expected one slice a file")
    photometric = _text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise UnreadableDicom("missing_tag", "PhotometricInterpretation is absent")
    if _number(dataset, "SamplesPerPixel", default=1) != 1 or photometric not in _MONOCHROME:
        raise UnreadableDicom("not_a_slice", f"{photometric} pixels; expected one monochrome sample")
    bits_stored = int(_number(dataset, "BitsStored"))
    row_spacing, column_spacing = _numbers(dataset, "PixelSpacing", 2)
    padding_value = _number(dataset, "PixelPaddingValue", default=np.nan)
    header = Header(
        PatientID=_text(dataset, "PatientID"),
        StudyInstanceUID=_text(dataset, "StudyInstanceUID"),
        SeriesInstanceUID=_text(dataset, "SeriesInstanceUID"),
        position=_numbers(dataset, "ImagePositionPatient", 3),  # type: ignore[arg-type]
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),  # type: ignore[arg-type]
        row_spacing=row_spacing,
        column_spacing=column_spacing,
        rows=int(_number(dataset, "Rows")),
        columns=int(_number(dataset, "Columns")),
        bits_allocated=int(_number(dataset, "BitsAllocated")),
        bits_stored=bits_stored,
        high_bit=int(_number(dataset, "HighBit", default=bits_stored - 1)),
        pixel_representation=int(_number(dataset, "PixelRepresentation")),
        photometric_interpretation=photometric,
        rescale_slope=_number(dataset, "RescaleSlope", default=1),
        rescale_intercept=_number(dataset, "RescaleIntercept"),
        padding_value=padding_value,
        padding_limit=_number(dataset, "PixelPaddingRangeLimit", default=padding_value),
        transfer_syntax=str(syntax),
    )
    if header.rows < 1 or header.columns < 1:
        raise UnreadableDicom("bad_value", f"{header.rows} rows and {header.columns} columns")
    if header.rows * header.columns > MAX_PIXELS:
        raise UnreadableDicom(
            "too_large", f"{header.rows} x {header.columns} pixels; a CT slice has at most {MAX_PIXELS}"
        )
    if header.bits_allocated not in (8, 16, 32) or not 1 <= header.bits_stored <= header.bits_allocated:
        raise UnreadableDicom("bad_value", f"{header.bits_stored} bits stored in {header.bits_allocated} allocated")
    if not header.bits_stored - 1 <= header.high_bit < header.bits_allocated:
        raise UnreadableDicom("bad_value", f"HighBit {header.high_bit} with {header.bits_stored} bits stored")
    if header.rescale_slope == 0:
        raise UnreadableDicom("bad_value", "RescaleSlope is 0: every pixel would have the same HU")
    if header.pixel_representation not in (0, 1):
        raise UnreadableDicom("bad_value", f"PixelRepresentation {header.pixel_representation}; expected 0 or 1")
    return header


def _text(dataset: pydicom.Dataset, tag: str) -> str:
    value = dataset.get(_TEXT_TAGS[tag])
    value = None if value is None else value.value
    return "" if value is None else str(value).strip()


def _number(dataset: pydicom.Dataset, tag: str, default: float | None = None) -> float:
    values = _values(dataset, tag)
    if not values:
        if default is None:
            raise UnreadableDicom("missing_tag", f"{tag} is absent")
        return default
    if len(values) != 1 or not math.isfinite(values[0]):
        raise UnreadableDicom("bad_value", f"{tag} is {first_few(values)}; expected one number")
    return values[0]


def _numbers(dataset: pydicom.Dataset, tag: str, count: int) -> tuple[float, ...]:
    """A tag of `count` numbers; NaN for each where it is absent, for a slice can be read without its place."""
    values = _values(dataset, tag) or (float("nan"),) * count
    if len(values) != count:
        raise UnreadableDicom("bad_value", f"{tag} has {len(values)} numbers; expected {count}")
    return values


def _values(dataset: pydicom.Dataset, tag: str) -> tuple[float, ...]:
    """The numbers of a tag, none where it is absent or empty.

    Taken from its bytes: pydicom's own conversion of a header's tags takes longer than reading the header.
    """
    element = dataset.get_item(_NUMBER_TAGS[tag])
    if element is None or not element.value:
        return ()
    vr = element.VR or dictionary_VR(_NUMBER_TAGS[tag])  # implicit VR: what the standard says
    if isinstance(element, RawDataElement) and vr in ("DS", "IS"):
        # PS3.5 6.2: decimal or integer strings, padded with blanks
        return tuple(float(part) for part in element.value.strip(b" \0").split(b"\\") if part)
    if isinstance(element, RawDataElement) and vr in ("US", "SS", "US or SS"):
        signed = vr == "SS" or (vr != "US" and _number(dataset, "PixelRepresentation") == 1)
        order, kind = "<" if element.is_little_endian else ">", "h" if signed else "H"
        return struct.unpack(f"{order}{len(element.value) // 2}{kind}", element.value)
    value = dataset[tag].value
    return tuple(map(float, value)) if isinstance(value, MultiValue) else (float(value),)
