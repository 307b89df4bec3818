"""DICOM objects that hold results: what a report and a key image share, so that a PACS files them with their study.

Patient and study are copied from the images that were read, the series is new. Nothing depends on when or where an
object is made: UIDs are hashes of what they stand for (2.25 and a UUID, PS3.5 B.2), the SOPInstanceUID of all that the
object holds, and dates are the study's. So the same results are the same bytes, and other results are other objects.
"""

import hashlib
import io
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from src.dicom.description import Description
from src.dicom.file import MAX_ENHANCED_BYTES, UnreadableDicom, quiet_pydicom, read_tags
from src.dicom.sources import Source

WARNING = "RESEARCH - NOT FOR CLINICAL USE"

# PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.12.1. Those of type 2 are there, if empty, whatever the source has.
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_TYPE_3 = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "IssuerOfPatientID", "OtherPatientIDs", "PatientAge"),
    *("StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod"),
)
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_TAGS = [Tag(name) for name in (*_TYPE_2, *_TYPE_3, *_DATES, *_LOSSY, "StudyInstanceUID")]

# what a value must look like, or it is left out: a validator would call the copy wrong. PS3.5 6.2
_FORMS = {
    "DA": re.compile(r"\d{8}"),
    "TM": re.compile(r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?"),
    "AS": re.compile(r"\d{3}[DWMY]"),
}
_SEXES = ("M", "F", "O")
_NO_DATE = "19000101"  # where a study has none: ContentDate must not be empty (PS3.3 C.17.2)

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_NAMESPACE = uuid.UUID("9a3f64a4-4c1f-5d1e-8f0b-6f8c7b6f5f6e")  # of UIDs made here; any other would do


@dataclass(frozen=True)
class Maker:
    """What makes results: a pipeline's name and version, and the SHA-256 of the detector that it runs."""

    name: str
    version: str
    detector: str

    @property
    def uid(self) -> str:
        """The UID of this version with this detector, as a device."""
        return uid_of("device", self.name, self.version, self.detector)


@dataclass(frozen=True)
class Subject:
    """What results are about: patient and study as tags, the date of the content, how the images were compressed."""

    tags: Dataset
    date: str
    time: str
    lossy: Dataset


@dataclass(frozen=True)
class About:
    """What all objects about one scan share. name: of the scan, as no other; number: of its series, for people."""

    subject: Subject
    study: str
    name: str
    number: str
    maker: Maker

    def uid(self, *parts: str) -> str:
        """A UID for something about this scan; the same for the same detector and version, and no other."""
        return uid_of(self.maker.version, self.maker.detector, self.study, self.name, *parts)


def uid_of(*parts: str) -> str:
    """A UID that is a hash of some texts: PS3.5 B.2, with a name-based UUID."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def why_no_results(slices: Sequence[Description]) -> str:
    """Why no DICOM object can refer to these images; empty if one can.

    An object names its study, and the series and images that it is about, by UIDs (PS3.5 9.1). The competition's ids
    are none, and no PACS holds images of such names.
    """
    for each in slices:
        for name, uid in (
            ("StudyInstanceUID", each.study),
            ("SeriesInstanceUID", each.series),
            ("SOPInstanceUID", each.sop_instance),
            ("SOPClassUID", each.sop_class),
        ):
            if not _UID.fullmatch(uid) or len(uid) > 64:
                return f"its {name} {uid[:80]!r} is no UID, by which a PACS would file them"
    return ""


def read_subject(source: Source) -> Subject:
    """Read patient and study from one of the images. Raises UnreadableDicom, and OSError for errors of the machine."""
    with quiet_pydicom():
        found = read_tags(source, _TAGS, limit=MAX_ENHANCED_BYTES)
        tags, lossy = Dataset(), Dataset()
        for name in _TYPE_3:
            if (value := _value(found, name)) not in ("", None):
                setattr(tags, name, value)
        for name in _TYPE_2:
            setattr(tags, name, _value(found, name))
        if not tags.get("DeidentificationMethod"):  # type 1C, where PatientIdentityRemoved is YES
            tags.pop("PatientIdentityRemoved", None)
        tags.StudyInstanceUID = str(found.StudyInstanceUID).strip()
        if found.get("LossyImageCompression") == "01":  # once lossy, always lossy: PS3.3 C.7.6.1.1.5
            for name in _LOSSY:
                if name in found:
                    lossy[name] = found[name]
        date = next((value for name in _DATES if (value := _value(found, name))), _NO_DATE)
        return Subject(tags, date, tags.StudyTime or "000000", lossy)


def _value(dataset: Dataset, name: str) -> Any:
    """A tag's value, or an empty one where it is absent or has not the form that it must have."""
    element = dataset.get(Tag(name))
    if element is None or element.value is None:
        return ""
    form = _FORMS.get(element.VR)
    if form and not form.fullmatch(str(element.value).strip()):
        return ""
    if name == "PatientSex" and element.value not in _SEXES:
        return ""
    return element.value


def add_shared(dataset: Dataset, about: About) -> None:
    """Add patient, study, equipment and dates to an object. PS3.3 C.7.1.1, C.7.2.1, C.7.5.1."""
    dataset.update(about.subject.tags)
    dataset.Manufacturer = dataset.ManufacturerModelName = about.maker.name
    dataset.SoftwareVersions = [about.maker.version, f"detector {about.maker.detector[:12]}"]
    dataset.DeviceSerialNumber = about.maker.detector
    dataset.ContentDate, dataset.ContentTime = about.subject.date, about.subject.time
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        dataset.pop(name, None)
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        equipment.pop("ContributionDateTime", None)


def series_description(about: About, what: str) -> str:
    """A SeriesDescription that warns: of 64 characters at most (LO), which any character set has."""
    number = f" of series {about.number}" if re.fullmatch(r"[0-9]+", about.number) else ""
    return f"{WARNING}: {what}{number}"[:64]


def to_bytes(dataset: Dataset) -> bytes:
    """Give an object the SOPInstanceUID that is a hash of all it holds, and write it as a file. PS3.10 7.1."""
    dataset.SOPInstanceUID = "2.25.0"
    dataset.SOPInstanceUID = uid_of("object", hashlib.sha256(_as_file(dataset)).hexdigest())
    return _as_file(dataset)


def _as_file(dataset: Dataset) -> bytes:
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    plain = Dataset()
    plain.update(dataset)  # a copy of highdicom's object, whose own writing adds its version
    plain.file_meta = meta
    buffer = io.BytesIO()
    try:
        pydicom.dcmwrite(buffer, plain, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise UnreadableDicom("bad_value", f"{type(error).__name__}: {error}") from error
    return buffer.getvalue()
