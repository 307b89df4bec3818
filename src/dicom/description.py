"""What a DICOM file says of itself, pixels aside: which patient, study and series, how and of what the image was made.

It is read from any object, an image or none, CT or not, so that a folder of all kinds of files can be told apart.
`header` holds what the pixels depend on, and refuses what is no slice; a description keeps that as a reason. An
Enhanced CT (PS3.3 A.38) holds many frames, each of which is described as a slice.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.tag import Tag

from src.dicom.enhanced import frame_count, frame_header, is_enhanced
from src.dicom.file import (
    MAX_ENHANCED_BYTES,
    UnreadableDicom,
    parse,
    quiet_pydicom,
    read_bytes,
    read_tags,
    without_deflation,
)
from src.dicom.header import HEADER_TAGS, Header, header_of, text_of
from src.dicom.sources import Source

_TAGS = {
    name: Tag(name)
    for name in (
        *("SOPClassUID", "ImageType", "SeriesDescription", "StudyDescription", "SeriesNumber", "AcquisitionNumber"),
        *("BodyPartExamined", "ConvolutionKernel", "SliceThickness", "ContrastBolusAgent", "FrameOfReferenceUID"),
        *("PatientAge", "PatientSex", "Manufacturer", "ManufacturerModelName", "KVP", "StudyDate"),
    )
}
_ALL_TAGS = [*HEADER_TAGS, *_TAGS.values()]

_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}  # PS3.5 6.2, AS


@dataclass(frozen=True)
class Description:
    """What a file, or a frame of one, says of itself. Texts that are absent are empty, numbers NaN.

    header: None where the pixels cannot be read as a slice in HU; `reason` (one of REASONS) and `message` then say why.
    frame: from 1, 0 for a file of one frame. thickness: mm; age: years.
    """

    source: Source
    frame: int
    header: Header | None
    reason: str
    message: str
    patient: str
    study: str
    series: str
    sop_instance: str
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    series_number: str
    acquisition: str
    frame_of_reference: str
    series_description: str
    study_description: str
    study_date: str
    body_part: str
    kernel: str
    contrast: str
    thickness: float
    age: float
    sex: str
    manufacturer: str
    model: str
    kvp: float

    @property
    def id(self) -> str:
        """A name that no other slice has: the SOPInstanceUID, with the number of the frame where there are several."""
        return f"{self.sop_instance}#{self.frame}" if self.frame else self.sop_instance


def describe(source: Source) -> list[Description]:
    """Describe a file, frame by frame where it has several.

    Raises UnreadableDicom where it is no DICOM file, and OSError for errors of the machine.
    """
    with quiet_pydicom():
        if read_bytes(source, 132, limit=MAX_ENHANCED_BYTES)[0][128:] != b"DICM":
            raise UnreadableDicom("not_dicom", "no DICOM prefix")  # so no viewer program of a CD is read whole
        dataset = read_tags(source, _ALL_TAGS, limit=MAX_ENHANCED_BYTES)
        if not is_enhanced(dataset):
            return [_description(source, 0, dataset)]
        data = read_bytes(source, None, limit=MAX_ENHANCED_BYTES)[0]
        dataset = parse(without_deflation(data), None, stop_before_pixels=True)[0]  # the functional groups too
        return [
            _description(source, number + 1, frame_header(dataset, number)) for number in range(frame_count(dataset))
        ]


def _description(source: Source, frame: int, dataset: pydicom.Dataset) -> Description:
    header, reason, message = None, "", ""
    try:
        header = header_of(dataset)
    except UnreadableDicom as error:
        reason, message = error.reason, str(error)
    text = {name: _text(dataset, tag) for name, tag in _TAGS.items()}
    return Description(
        source=source,
        frame=frame,
        header=header,
        reason=reason,
        message=message,
        patient=text_of(dataset, "PatientID"),
        study=text_of(dataset, "StudyInstanceUID"),
        series=text_of(dataset, "SeriesInstanceUID"),
        sop_instance=text_of(dataset, "SOPInstanceUID") or str(source),
        sop_class=text["SOPClassUID"],
        modality=text_of(dataset, "Modality").upper(),
        image_type=tuple(part.strip().upper() for part in text["ImageType"].split("\\")),
        series_number=text["SeriesNumber"],
        acquisition=text["AcquisitionNumber"],
        frame_of_reference=text["FrameOfReferenceUID"],
        series_description=text["SeriesDescription"],
        study_description=text["StudyDescription"],
        study_date=text["StudyDate"],
        body_part=text["BodyPartExamined"].upper(),
        kernel=text["ConvolutionKernel"],
        contrast=text["ContrastBolusAgent"],
        thickness=_number(text["SliceThickness"]),
        age=age_in_years(text["PatientAge"]),
        sex=text["PatientSex"].upper(),
        manufacturer=text["Manufacturer"],
        model=text["ManufacturerModelName"],
        kvp=_number(text["KVP"]),
    )


def age_in_years(text: str) -> float:
    """A PatientAge such as 045Y, 018M, 006W or 003D in years; NaN for anything else. PS3.5 6.2."""
    found = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", text.upper())
    return int(found[1]) * _DAYS[found[2]] / _DAYS["Y"] if found else math.nan


def _text(dataset: pydicom.Dataset, tag: pydicom.tag.BaseTag) -> str:
    """A tag as text, several values with a backslash between them; empty where it is absent or malformed."""
    try:
        element = dataset.get(tag)
        value = None if element is None else element.value
        if value is None or isinstance(value, pydicom.Sequence):
            return ""
        values = [value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else list(value)
        text = "\\".join(str(each) for each in values)
    except Exception:  # noqa: BLE001 - pydicom raises all kinds; a description goes on without a damaged tag
        return ""
    return " ".join(text.replace("\0", "").split()).encode("utf-8", "replace").decode()


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def path_of(source: Source) -> Path:
    """The path of a source as people know it: of a member of an archive, the archive's path and then its name."""
    return Path(source) if isinstance(source, str) else Path(source.archive) / source.name
