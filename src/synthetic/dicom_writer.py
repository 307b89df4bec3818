"""Write slices with the same header tags as the competition's files, and no others.

The competition removed SOPClassUID and put `ID_...` where UIDs belong, so its files are not valid DICOM (PS3.10), and
neither are these.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from src.synthetic.encoding import Encoding

IMPLEMENTATION_UID = UID("2.25.280197316640530105183957230516437208163")  # fixed, so that the bytes are reproducible


@dataclass(frozen=True)
class SliceHeader:
    """The header values that differ from file to file."""

    slice_id: str
    patient_id: str
    study_id: str
    series_id: str
    position: tuple[float, float, float]  # mm, centre of the first pixel
    tilt: float  # of the gantry, in radians
    pixel_mm: float
    encoding: Encoding
    explicit_vr: bool
    window: tuple[str, str] | tuple[list[str], list[str]]  # centre and width, each one value or several


def encode_dicom(stored: NDArray[np.int16] | NDArray[np.uint16], header: SliceHeader) -> bytes:
    """Return the bytes of a DICOM file. stored: (rows, columns)."""
    syntax = ExplicitVRLittleEndian if header.explicit_vr else ImplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom fills it in
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{int(header.slice_id.removeprefix('ID_'), 16)}")
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID

    with config.disable_value_validation():  # `ID_...` is not a valid UID
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPInstanceUID = header.slice_id
        dataset.Modality = "CT"
        dataset.PatientID = header.patient_id
        dataset.StudyInstanceUID = header.study_id
        dataset.SeriesInstanceUID = header.series_id
        dataset.StudyID = ""
        dataset.ImagePositionPatient = [f"{mm:.6f}" for mm in header.position]
        cosine, sine = np.cos(header.tilt), np.sin(header.tilt)
        dataset.ImageOrientationPatient = [f"{value:.6f}" for value in (1.0, 0.0, 0.0, 0.0, cosine, 0.0 - sine)]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows, dataset.Columns = stored.shape
        dataset.PixelSpacing = [f"{header.pixel_mm:.6f}"] * 2
        dataset.BitsAllocated = 16
        dataset.BitsStored = header.encoding.bits_stored
        dataset.HighBit = header.encoding.bits_stored - 1
        dataset.PixelRepresentation = int(header.encoding.signed)
        dataset.WindowCenter, dataset.WindowWidth = header.window
        dataset.RescaleIntercept = str(header.encoding.intercept)
        dataset.RescaleSlope = "1"
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
        dataset["PixelData"].VR = "OW"
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, implicit_vr=not header.explicit_vr, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()
