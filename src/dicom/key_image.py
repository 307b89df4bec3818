"""A key image: a picture drawn from a slice, as a Secondary Capture in colour (PS3.3 A.8.1).

One object a picture, which every PACS shows; multi-frame secondary captures are shown by few.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from src.dicom.description import Description
from src.dicom.file import quiet_pydicom
from src.dicom.results import About, add_shared, series_description, to_bytes

SERIES_NUMBER = 9002

_AXES = (
    ("L", "R"),
    ("P", "A"),
    ("H", "F"),
)  # towards larger and smaller coordinates: PS3.3 C.7.6.2.1.1


def write_key_image(about: About, picture: np.ndarray, image: Description, number: int, series: str) -> bytes:
    """Write a picture of a slice as the bytes of a DICOM file.

    picture: (rows, columns, 3) uint8 RGB; number: from 1, in the series of key images; series: a text that tells this
    series from others about the same scan. Raises UnreadableDicom where a value that is copied cannot be written.
    """
    rows, columns, _ = picture.shape
    with quiet_pydicom():
        key = Dataset()
        add_shared(key, about)
        key.SOPClassUID = SecondaryCaptureImageStorage
        key.Modality, key.SeriesNumber, key.InstanceNumber = "OT", SERIES_NUMBER, number
        key.BodyPartExamined = "HEAD"
        key.SeriesInstanceUID = about.uid("key images", series)
        key.SeriesDescription = series_description(about, "ICH key images")
        key.ConversionType = "WSD"  # by a workstation: C.8.6.1
        key.ImageType = ["DERIVED", "SECONDARY"]
        key.PatientOrientation = list(patient_orientation(image)) or None
        key.DerivationDescription = "Brain window, class activation map and caption drawn from one slice"
        key.SourceImageSequence = [_reference(image)]
        key.BurnedInAnnotation = "YES"
        key.LossyImageCompression = "00"
        key.update(about.subject.lossy)
        key.SamplesPerPixel, key.PhotometricInterpretation, key.PlanarConfiguration = 3, "RGB", 0
        key.Rows, key.Columns = rows, columns
        key.BitsAllocated, key.BitsStored, key.HighBit, key.PixelRepresentation = 8, 8, 7, 0
        data = np.ascontiguousarray(picture, dtype=np.uint8).tobytes()
        key.PixelData = data + b"\0" * (len(data) % 2)
        key["PixelData"].VR = "OB"
        return to_bytes(key)


def patient_orientation(image: Description) -> tuple[str, ...]:
    """Where in the patient rows and columns of a slice lead: such as ("L", "P"); empty where it is not known."""
    orientation = () if image.header is None else image.header.orientation
    if len(orientation) != 6 or not np.isfinite(orientation).all():
        return ()
    return _letter(orientation[:3]), _letter(orientation[3:])


def opposite(letter: str) -> str:
    """The other side of the patient: of L it is R."""
    return next(pair[1 - pair.index(letter)] for pair in _AXES if letter in pair)


def _letter(direction: Sequence[float]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return _AXES[axis][0 if direction[axis] > 0 else 1]


def _reference(image: Description) -> Dataset:
    """A reference to the slice. PS3.3 C.7.6.1.1.4, CID 7202."""
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.sop_class, image.sop_instance
    if image.frame:
        reference.ReferencedFrameNumber = image.frame
    reference.PurposeOfReferenceCodeSequence = [purpose]
    return reference
