"""Heads as scanners send them, and a small detector that was never trained."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from src.classify.network import build_network
from src.config import Config
from src.detector.card import model_card
from src.detector.folder import Description, Member, Network, write_folder
from src.detector.operating import OPERATING_POINTS
from src.ensemble.recipe import Recipe
from src.labels import LABELS

SIZE, SPACING, GAP = 96, 2.2, 5.0  # pixels, mm, mm

Head = Callable[..., list[Path]]


def head_hu(slices: int, seed: int = 0) -> np.ndarray:
    """A head without a face: (slices, SIZE, SIZE) int16 HU; air, scalp, skull, brain with ventricles and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2 + 0.5
    hu = np.full((slices, SIZE, SIZE), -1000.0)
    for i in range(slices):
        shrink = 1 - 0.4 * (i / max(slices - 1, 1)) ** 3  # towards the vertex
        radius = np.hypot(rows / 40, columns / 33) / shrink
        for edge, value in ((1.0, 20), (0.93, 900), (0.86, 34)):
            hu[i][radius < edge] = value
        hu[i][np.hypot(rows / 8, columns / 5) < 1] = 8
        hu[i][radius < 0.86] += rng.normal(0, 4, (radius < 0.86).sum())
    return np.rint(hu).astype(np.int16)


def slice_dataset(hu: np.ndarray, z: float, uids: Sequence[str], number: int, **tags: object) -> Dataset:
    """A CT image of signed HU. uids: patient, study, series."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{uids[2]}.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "Doe^Jane", "19600101", "F"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 2, number, 1
    dataset.ConvolutionKernel, dataset.SliceThickness, dataset.FrameOfReferenceUID = "H31s", GAP, f"{uids[1]}.9"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-105.0, -105.0, z], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.Rows, dataset.Columns = [SPACING, SPACING], *hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "HU"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = hu.tobytes()
    return dataset


@pytest.fixture(scope="session")
def write_head() -> Head:
    """Write a head, a file a slice: (folder, number of slices, tags of all) -> the files, from feet to vertex."""

    def _write(
        folder: Path, slices: int = 12, *, patient: str = "P1", study: str = "1.2.3", series: str = "", **tags: object
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        series = series or f"{study}.{len(list(folder.iterdir())) + 1}"
        paths = []
        for i, hu in enumerate(head_hu(slices)):
            dataset = slice_dataset(hu, i * GAP, (patient, study, series), i + 1, **tags)
            paths.append(folder / f"{series}.{i:03d}.dcm")
            dataset.save_as(paths[-1], enforce_file_format=True)
        return paths

    return _write


def enhanced(files: Sequence[Path], to: Path) -> Path:
    """Write slices as one Enhanced CT: frames in reverse, places and kernel by frame, rescale shared."""
    slices = [pydicom.dcmread(path) for path in files][::-1]
    whole = Dataset()
    whole.update({element.tag: element for element in slices[0] if element.keyword != "PixelData"})
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = slices[0].file_meta.TransferSyntaxUID
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[to.name])
    whole.NumberOfFrames = len(slices)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_part(slices[0], "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_part(slices[0], "ImageOrientationPatient")]
    shared.PixelValueTransformationSequence = [_part(slices[0], "RescaleIntercept", "RescaleSlope", "RescaleType")]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for each in slices:
        frame = Dataset()
        frame.PlanePositionSequence = [_part(each, "ImagePositionPatient")]
        frame.CTReconstructionSequence = [_part(each, "ConvolutionKernel")]
        frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence = frames
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel"),
        *("RescaleIntercept", "RescaleSlope", "RescaleType"),
    ):
        whole.pop(keyword, None)
    compressed = whole.file_meta.TransferSyntaxUID.is_encapsulated
    pixels = [next(pydicom.encaps.generate_frames(each.PixelData)) if compressed else each.PixelData for each in slices]
    whole.PixelData = encapsulate(pixels) if compressed else b"".join(pixels)
    whole["PixelData"].VR = "OB" if compressed else "OW"
    buffer = io.BytesIO()
    whole.save_as(buffer, enforce_file_format=True)
    to.write_bytes(buffer.getvalue())
    return to


def _part(dataset: Dataset, *keywords: str) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        if keyword in dataset:
            part[keyword] = dataset[keyword]
    return part


@pytest.fixture(scope="session")
def detector_folder(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of one small network, with figures as if it had been scored. Not to be changed."""
    config = make_config()
    torch.manual_seed(0)
    network = build_network(config)
    with torch.no_grad():
        network.classifier.weight.mul_(20)
    one = Network(config.name, 0, 3, "c" * 64, "d" * 32)
    rates, points = {"sensitivity": 0.95, "specificity": 0.8}, dict.fromkeys(LABELS, 0.5)
    facts = {
        "networks": 1,
        "networks_of_submission": 1,
        "training": {
            "slices": 100, "studies": 10, "patients": 9, "gap_mm": 5.0, "positive_slices": dict.fromkeys(LABELS, 10)
        },
        "out_of_fold_log_loss": None,
        "levels": {
            "study": {
                "cases": 10,
                "positives": dict.fromkeys(LABELS, 4.0),
                "auc": dict.fromkeys(LABELS, 0.9),
                "operating": {name: dict.fromkeys(LABELS, rates) for name in OPERATING_POINTS},
            }
        },
    }  # fmt: skip
    description = Description(
        classifiers={config.name: config},
        sequences={},
        members=[Member(config.name, [one], [])],
        recipe=Recipe(),
        numbers={"weights": {config.name: 1.0}, "smooth_mm": 0.0},
        operating_points={"study": {name: {**points, "epidural": None} for name in OPERATING_POINTS}},
        facts=facts,
    )
    tensors = {f"{one.prefix}{name}": value.contiguous() for name, value in network.state_dict().items()}
    folder = tmp_path_factory.mktemp("detector") / "detector"
    write_folder(folder, description, {config.name: tensors}, model_card(description))
    return folder
