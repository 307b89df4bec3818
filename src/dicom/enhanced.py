"""Enhanced CT: many frames in one file, each taken out as the file of a single slice.

What a frame's slice has in tags of its own, an enhanced object has in functional groups, shared by all frames or of
each (PS3.3 A.38, C.7.6.16). A frame is written out with them as a CT image of one frame, in memory, so that everything
that reads slices reads frames, with all its checks.
"""

import io
from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage

from src.dicom.file import UnreadableDicom, quiet_pydicom, without_deflation

ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
)
MAX_FRAMES = 4096

# the functional group of each tag: PS3.3 C.7.6.16.2, C.8.15.3
_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
}
_SHARED_TAGS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    *("SeriesDescription", "StudyDescription", "SeriesNumber", "AcquisitionNumber", "BodyPartExamined", "StudyDate"),
    *("ConvolutionKernel", "ContrastBolusAgent", "FrameOfReferenceUID", "PatientAge", "PatientSex", "Manufacturer"),
    *("ManufacturerModelName", "KVP", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "PixelSpacing", "ImagePositionPatient", "SliceThickness"),
    *("ImageOrientationPatient", "SpecificCharacterSet"),
)


def is_enhanced(dataset: Dataset) -> bool:
    """Whether an object is an Enhanced CT."""
    return str(dataset.get("SOPClassUID", "")) in ENHANCED


def frame_count(dataset: Dataset) -> int:
    """The number of frames. Raises UnreadableDicom for a number that no scan has."""
    count = int(dataset.get("NumberOfFrames") or 1)
    if not 1 <= count <= MAX_FRAMES:
        raise UnreadableDicom("bad_value", f"{count} frames; expected 1 to {MAX_FRAMES}")
    return count


def frame_header(dataset: Dataset, number: int) -> Dataset:
    """The tags that a CT image of frame `number` alone, from 0, would have, without pixels."""
    frame = Dataset()
    for keyword in _SHARED_TAGS:
        if keyword in dataset:
            frame[keyword] = dataset[keyword]
    for sequence, keywords in _GROUPS.items():
        for group in _groups(dataset, number, sequence):
            for keyword in keywords:
                if keyword in group:
                    frame[keyword] = group[keyword]
    frame.NumberOfFrames = 1
    frame.file_meta = dataset.file_meta
    return frame


def _groups(dataset: Dataset, number: int, sequence: str) -> Iterator[Dataset]:
    """A functional group as all frames share it, then as frame `number` has it."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for holder in (*shared[:1], *each[number : number + 1]):
        yield from (holder.get(sequence) or [])[:1]


def split_frames(data: bytes) -> Iterator[bytes]:
    """The frames of an Enhanced CT, each as the bytes of a CT image of one frame. Raises UnreadableDicom."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(io.BytesIO(without_deflation(data)))
        count = frame_count(dataset)
        pixels = _pixels_of_frames(dataset, count)
    for number in range(count):
        with quiet_pydicom():
            yield _as_file(frame_header(dataset, number), next(pixels))


def _pixels_of_frames(dataset: Dataset, count: int) -> Iterator[tuple[bytes, bool]]:
    """The pixels of each frame: (bytes, whether they are compressed)."""
    if "PixelData" not in dataset:
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        found = list(generate_frames(dataset.PixelData, number_of_frames=count))
        if len(found) < count:
            raise UnreadableDicom("truncated", f"{len(found)} of {count} frames")
        return ((frame, True) for frame in found)
    length = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if len(dataset.PixelData) < length * count:
        raise UnreadableDicom("truncated", f"{len(dataset.PixelData)} of {length * count} bytes of pixels")
    return ((dataset.PixelData[at * length : (at + 1) * length], False) for at in range(count))


def _as_file(frame: Dataset, pixels: tuple[bytes, bool]) -> bytes:
    data, compressed = pixels
    meta: Any = FileMetaDataset()
    meta.TransferSyntaxUID = frame.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = str(frame.get("SOPInstanceUID", "")) or "1"
    frame.file_meta, frame.SOPClassUID = meta, CTImageStorage
    frame.PixelData = encapsulate([data]) if compressed else data + b"\0" * (len(data) % 2)
    frame["PixelData"].VR = "OB" if compressed or frame.BitsAllocated == 8 else "OW"
    frame["PixelData"].is_undefined_length = compressed
    buffer = io.BytesIO()
    frame.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
