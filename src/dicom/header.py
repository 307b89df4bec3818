"""The header of a CT slice: its tags as numbers and text, checked.

Header names the tags that the pipeline uses. Headers that no single-frame monochrome CT slice can have are refused.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from src.dicom.file import UnreadableDicom, quiet_pydicom, read_tags
from src.dicom.sources import Source
from src.errors import first_few

MAX_PIXELS = 2048 * 2048  # four times the largest matrix of a clinical CT scanner, 1024 x 1024

_MAX_RESCALE = 1e6  # slopes and intercepts that are larger in size are no scanner's

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")

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
    name: Tag(name)
    for name in (
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "PhotometricInterpretation",
        "Modality",
        "RescaleType",
    )
}
_LOOKUP_TABLE = Tag("ModalityLUTSequence")
HEADER_TAGS = [*_NUMBER_TAGS.values(), *_TEXT_TAGS.values(), _LOOKUP_TABLE]


@dataclass(frozen=True)
class Header:
    """The header of a slice. Optional tags that are absent are NaN or an empty string."""

    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    position: tuple[float, float, float]  # mm, of the centre of the first pixel
    orientation: tuple[float, float, float, float, float, float]  # direction cosines of a row and of a column
    row_spacing: float  # mm between the centres of adjacent rows
    column_spacing: float  # mm between the centres of adjacent columns
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int  # 0 unsigned, 1 two's complement
    photometric_interpretation: str
    rescale_slope: float
    rescale_intercept: float
    padding_value: float  # stored value of pixels outside the image
    padding_limit: float  # the other end of the range of such values; equal to padding_value if there is only one
    transfer_syntax: str


def read_header(source: Path | Source) -> Header:
    """Read a slice's header without its pixels.

    Raises UnreadableDicom with a `reason` code, and OSError for errors of the machine.
    """
    with quiet_pydicom():
        return header_of(read_tags(source, HEADER_TAGS))


def header_of(dataset: pydicom.Dataset) -> Header:
    """Convert and check the HEADER_TAGS of a data set. Raises UnreadableDicom."""
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableDicom("missing_tag", "TransferSyntaxUID is absent")
    _check_quantity(dataset)
    if _number(dataset, "NumberOfFrames", default=1) not in (0, 1):  # 0 is invalid, and some writers' one
        raise UnreadableDicom("not_a_slice", "several frames; expected one slice a file")
    photometric = text_of(dataset, "PhotometricInterpretation")
    if not photometric:
        raise UnreadableDicom("missing_tag", "PhotometricInterpretation is absent")
    if _number(dataset, "SamplesPerPixel", default=1) != 1 or photometric not in _MONOCHROME:
        raise UnreadableDicom("not_a_slice", f"{photometric} pixels; expected one monochrome sample")
    bits_stored = int(_number(dataset, "BitsStored"))
    row_spacing, column_spacing = _numbers(dataset, "PixelSpacing", 2)
    padding_value = _number(dataset, "PixelPaddingValue", default=np.nan)
    header = Header(
        PatientID=text_of(dataset, "PatientID"),
        StudyInstanceUID=text_of(dataset, "StudyInstanceUID"),
        SeriesInstanceUID=text_of(dataset, "SeriesInstanceUID"),
        SOPInstanceUID=text_of(dataset, "SOPInstanceUID"),
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
    _check(header)
    return header


def _check_quantity(dataset: pydicom.Dataset) -> None:
    """Raise UnreadableDicom if what is stored does not stand for HU: PS3.3 C.11.1.1.2, C.8.2.1.

    A file without a modality or a unit is taken for CT: anonymisers remove them.
    """
    modality, unit = text_of(dataset, "Modality").upper(), text_of(dataset, "RescaleType").upper()
    if modality not in ("", "CT"):
        raise UnreadableDicom("not_hounsfield", f"Modality is {modality}; expected CT")
    if unit not in ("", "HU", "US"):  # US: unspecified
        raise UnreadableDicom("not_hounsfield", f"RescaleType is {unit}; expected HU")
    if _LOOKUP_TABLE in dataset:
        raise UnreadableDicom("not_hounsfield", "a lookup table (ModalityLUTSequence) in place of slope and intercept")


def _check(header: Header) -> None:
    """Raise UnreadableDicom if the numbers of a header are invalid or contradict each other."""
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
    if max(abs(header.rescale_slope), abs(header.rescale_intercept)) > _MAX_RESCALE:
        raise UnreadableDicom(
            "bad_value", f"a rescale by {header.rescale_slope:g} and {header.rescale_intercept:g}, which gives no HU"
        )
    if header.pixel_representation not in (0, 1):
        raise UnreadableDicom("bad_value", f"PixelRepresentation {header.pixel_representation}; expected 0 or 1")


def text_of(dataset: pydicom.Dataset, tag: str) -> str:
    """The text of one of the header's tags; empty where it is absent."""
    value = dataset.get(_TEXT_TAGS[tag])
    value = None if value is None else value.value
    # some character sets decode to halves of characters, which no file can hold
    return "" if value is None else str(value).strip().encode("utf-8", "replace").decode()


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
    """The `count` numbers of a tag; all NaN where it is absent or malformed, since a slice can be read without it."""
    try:
        values = _values(dataset, tag)
    except (ValueError, TypeError, OverflowError):  # such as decimal commas
        values = ()
    if len(values) != count or not all(map(math.isfinite, values)):
        return (float("nan"),) * count
    return values


def _values(dataset: pydicom.Dataset, tag: str) -> tuple[float, ...]:
    """The numbers of a tag; an empty tuple if it is absent or empty.

    They are converted from its bytes, because pydicom's own conversion of a header's tags takes longer than reading
    the header.
    """
    element = dataset.get_item(_NUMBER_TAGS[tag])
    if element is None or element.value is None or (hasattr(element.value, "__len__") and not len(element.value)):
        return ()
    vr = element.VR or dictionary_VR(_NUMBER_TAGS[tag])  # with implicit VR, the VR is that of the standard's dictionary
    if isinstance(element, RawDataElement) and vr in ("DS", "IS"):
        # PS3.5 6.2: decimal or integer strings, padded with blanks; zeros are common too
        parts = (part.strip(b" \0") for part in element.value.split(b"\\"))
        return tuple(float(part) for part in parts if part)
    if isinstance(element, RawDataElement) and vr in ("US", "SS", "US or SS"):
        signed = vr == "SS" or (vr != "US" and _number(dataset, "PixelRepresentation") == 1)
        order, kind = "<" if element.is_little_endian else ">", "h" if signed else "H"
        return struct.unpack(f"{order}{len(element.value) // 2}{kind}", element.value)
    value = dataset[tag].value
    return tuple(map(float, value)) if isinstance(value, MultiValue) else (float(value),)
