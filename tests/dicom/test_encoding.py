"""A data set in every encoding under every transfer syntax: read right, or refused as what it is."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from src.dicom import UnreadableDicom, read_header, read_hounsfield

PLAIN = Path(__file__).parent / "cases/mono2_same_values.dcm"
ENCODINGS = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian, "big": ExplicitVRBigEndian}
CLAIMS = [*ENCODINGS.values(), DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless, JPEG2000Lossless]


@pytest.fixture
def encoded(tmp_path: Path) -> Callable[[str, UID], Path]:
    """A file in one encoding that claims to be in another."""

    def _encoded(encoding: str, claim: UID) -> Path:
        path = tmp_path / "ct.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original = pydicom.dcmread(PLAIN)
            dataset = pydicom.Dataset()  # a new one: pydicom converts no byte order
            dataset.update({element.tag: element for element in original})
            dataset.file_meta = original.file_meta
            dataset.file_meta.TransferSyntaxUID = ENCODINGS[encoding]
            if encoding == "big":
                dataset.PixelData = np.frombuffer(original.PixelData, np.uint16).byteswap().tobytes()
            how = {"little_endian": encoding != "big", "implicit_vr": encoding == "implicit"}
            dataset.save_as(path, **how, enforce_file_format=True)
        data = path.read_bytes()
        body = 144 + int.from_bytes(data[140:144], "little")
        meta = pydicom.filebase.DicomBytesIO()
        dataset.file_meta.TransferSyntaxUID = claim
        pydicom.filewriter.write_file_meta_info(meta, dataset.file_meta)
        path.write_bytes(data[:132] + meta.getvalue() + data[body:])
        return path

    return _encoded


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.keyword)
def test_an_encoding_under_a_transfer_syntax(encoding: str, claim: UID, encoded: Callable[[str, UID], Path]) -> None:
    path = encoded(encoding, claim)
    if claim == ENCODINGS[encoding] or {encoding, claim} <= {"implicit", "explicit", *list(ENCODINGS.values())[:2]}:
        np.testing.assert_array_equal(read_hounsfield(path), read_hounsfield(PLAIN))
        assert read_header(path).position == read_header(PLAIN).position
        return
    if claim == DeflatedExplicitVRLittleEndian:
        expected = "by its transfer syntax deflated"
    elif encoding == "big" or claim == ExplicitVRBigEndian:
        expected = "endian, by its transfer syntax in"
    else:
        expected = "uncompressed pixels, by the header compressed"
    with pytest.raises(UnreadableDicom, match=expected) as refused:
        read_hounsfield(path)
    assert refused.value.reason == "bad_value"


def test_an_implicit_length_that_reads_like_a_vr(tmp_path: Path) -> None:
    # 95 x 92 pixels of 16 bits take 17480 bytes: 0x4448, "HD"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(PLAIN)
        dataset.Rows, dataset.Columns = 95, 92
        pixels = (np.arange(95 * 92) % 1000).astype(np.uint16)
        dataset.PixelData = pixels.tobytes()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(tmp_path / "ct.dcm", little_endian=True, implicit_vr=True, enforce_file_format=True)
    expected = pixels.reshape(95, 92) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    np.testing.assert_array_equal(read_hounsfield(tmp_path / "ct.dcm"), expected)
