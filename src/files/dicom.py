"""The only reader of DICOM: headers, stored pixels and Hounsfield units of single-frame CT slices.

Whatever is wrong with a file comes out as one exception, UnreadableDicom, with a reason code:

    missing_file      no such file, or it cannot be opened
    not_dicom         not a DICOM file, or its header cannot be parsed
    missing_tag       a tag without which pixels mean nothing (rows, columns, bits, ...) is absent or empty
    not_a_slice       several frames, several samples per pixel (colour), or not monochrome
    bad_value         a tag holds what it cannot hold
    no_pixels         no pixel data
    truncated         fewer pixel bytes than the header promises
    undecodable       the transfer syntax or the compressed data cannot be decoded
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.config import disable_value_validation

from src.ct.hounsfield import to_hounsfield

REASONS = (
    "missing_file",
    "not_dicom",
    "missing_tag",
    "not_a_slice",
    "bad_value",
    "no_pixels",
    "truncated",
    "undecodable",
)

_HEADER_TAGS = [
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
]


class UnreadableDicom(Exception):  # noqa: N818 - it names the state of a file
    """A file that gives no CT slice. `reason` is one of REASONS, the text says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
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
    pixel_representation: int  # 0 unsigned, 1 two's complement
    photometric_interpretation: str
    rescale_slope: float
    rescale_intercept: float
    transfer_syntax: str


def read_header(path: Path) -> Header:
    """Read a slice's header, never its pixels. Raises UnreadableDicom."""
    with _pydicom_quiet():
        return _header(_parse(path, header_only=True))


def read_stored(path: Path) -> tuple[np.ndarray, Header]:
    """Read the pixels as the file stores them: ((rows, columns) of an integer type, header). Raises UnreadableDicom."""
    with _pydicom_quiet():
        dataset = _parse(path, header_only=False)
        header = _header(dataset)
        stored = _decode(dataset, header)
    if stored.shape != (header.rows, header.columns):
        raise UnreadableDicom(
            "bad_value", f"pixels of shape {stored.shape}, the header says {(header.rows, header.columns)}"
        )
    return stored, header


def hounsfield_of(stored: np.ndarray, header: Header) -> np.ndarray:
    """The HU that stored pixels stand for: (rows, columns) of an integer type -> (rows, columns) float32 HU.

    Raises UnreadableDicom where the rescale leads out of all bounds.
    """
    if header.photometric_interpretation == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: the lowest value is white, so the scale runs backwards over the range of the stored bits
        low, high = _stored_limits(header)
        stored = (low + high) - stored.astype(np.int32)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        hu = to_hounsfield(
            stored,
            slope=header.rescale_slope,
            intercept=header.rescale_intercept,
            bits_stored=header.bits_stored,
            pixel_representation=header.pixel_representation,
        )
    if not np.isfinite(hu).all():
        raise UnreadableDicom("bad_value", f"HU are not finite with a RescaleSlope of {header.rescale_slope}")
    return hu


def read_hounsfield(path: Path) -> np.ndarray:
    """Read a slice: (rows, columns) float32 HU. Raises UnreadableDicom with a `reason` code."""
    return hounsfield_of(*read_stored(Path(path)))


@contextmanager
def _pydicom_quiet() -> Iterator[None]:
    """Let nothing of pydicom's out but its results: no warnings, no exceptions of its own.

    The competition's UIDs (`ID_...`) are no valid ones: pydicom would warn of each, whenever a tag is looked at. On
    damaged files it and its decoders raise whatever the damage leads them to, also when a tag is looked at.
    """
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnreadableDicom:
            raise
        except Exception as error:
            raise UnreadableDicom("bad_value", f"{type(error).__name__}: {error}") from error


def _stored_limits(header: Header) -> tuple[int, int]:
    if header.pixel_representation == 1:
        return -(1 << (header.bits_stored - 1)), (1 << (header.bits_stored - 1)) - 1
    return 0, (1 << header.bits_stored) - 1


def _parse(path: Path, *, header_only: bool) -> pydicom.Dataset:
    try:
        if header_only:
            return pydicom.dcmread(path, specific_tags=list(_HEADER_TAGS), stop_before_pixels=True)
        return pydicom.dcmread(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UnreadableDicom("missing_file", f"{error.strerror}") from error
    except Exception as error:
        raise UnreadableDicom("not_dicom", f"{type(error).__name__}: {error}") from error


def _decode(dataset: pydicom.Dataset, header: Header) -> np.ndarray:
    if not getattr(dataset, "PixelData", None):
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        # pydicom would pad or refuse according to the case; a slice with invented pixels must not pass for one
        expected = header.rows * header.columns * header.bits_allocated // 8
        if len(dataset.PixelData) < expected:
            raise UnreadableDicom("truncated", f"{len(dataset.PixelData)} of {expected} bytes of pixels")
    try:
        return dataset.pixel_array
    except Exception as error:
        raise UnreadableDicom("undecodable", f"{type(error).__name__}: {error}") from error


def _header(dataset: pydicom.Dataset) -> Header:
    meta = getattr(dataset, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableDicom("missing_tag", "TransferSyntaxUID is absent")
    if _number(dataset, "NumberOfFrames", default=1) != 1:
        raise UnreadableDicom("not_a_slice", f"{dataset.NumberOfFrames} frames; expected one slice a file")
    photometric = _text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise UnreadableDicom("missing_tag", "PhotometricInterpretation is absent")
    if _number(dataset, "SamplesPerPixel", default=1) != 1 or not photometric.startswith("MONOCHROME"):
        raise UnreadableDicom("not_a_slice", f"{photometric} pixels; expected one monochrome sample")
    header = Header(
        PatientID=_text(dataset, "PatientID"),
        StudyInstanceUID=_text(dataset, "StudyInstanceUID"),
        SeriesInstanceUID=_text(dataset, "SeriesInstanceUID"),
        position=_numbers(dataset, "ImagePositionPatient", 3),  # type: ignore[arg-type]
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),  # type: ignore[arg-type]
        row_spacing=_numbers(dataset, "PixelSpacing", 2)[0],
        column_spacing=_numbers(dataset, "PixelSpacing", 2)[1],
        rows=int(_number(dataset, "Rows")),
        columns=int(_number(dataset, "Columns")),
        bits_allocated=int(_number(dataset, "BitsAllocated")),
        bits_stored=int(_number(dataset, "BitsStored")),
        pixel_representation=int(_number(dataset, "PixelRepresentation")),
        photometric_interpretation=photometric,
        rescale_slope=_number(dataset, "RescaleSlope", default=1),
        rescale_intercept=_number(dataset, "RescaleIntercept"),
        transfer_syntax=str(syntax),
    )
    if header.rows < 1 or header.columns < 1:
        raise UnreadableDicom("bad_value", f"{header.rows} rows and {header.columns} columns")
    if header.bits_allocated not in (8, 16, 32) or not 1 <= header.bits_stored <= header.bits_allocated:
        raise UnreadableDicom("bad_value", f"{header.bits_stored} bits stored in {header.bits_allocated} allocated")
    if header.rescale_slope == 0:
        raise UnreadableDicom("bad_value", "RescaleSlope is 0: every pixel would have the same HU")
    if header.pixel_representation not in (0, 1):
        raise UnreadableDicom("bad_value", f"PixelRepresentation {header.pixel_representation}; expected 0 or 1")
    return header


def _text(dataset: pydicom.Dataset, tag: str) -> str:
    value = dataset.get(tag)
    return "" if value is None else str(value).strip()


def _number(dataset: pydicom.Dataset, tag: str, default: float | None = None) -> float:
    value = dataset.get(tag)
    if value is None or value == "":
        if default is None:
            raise UnreadableDicom("missing_tag", f"{tag} is absent")
        return default
    number = float(value)
    if not np.isfinite(number):
        raise UnreadableDicom("bad_value", f"{tag} is {number}")
    return number


def _numbers(dataset: pydicom.Dataset, tag: str, count: int) -> tuple[float, ...]:
    """A tag of `count` numbers; NaN for each where it is absent, for a slice can be read without its place."""
    value = dataset.get(tag)
    if value is None or value == "":
        return (float("nan"),) * count
    numbers = tuple(float(part) for part in value)
    if len(numbers) != count:
        raise UnreadableDicom("bad_value", f"{tag} has {len(numbers)} numbers; expected {count}")
    return numbers
