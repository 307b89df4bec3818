from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import read_header, read_hounsfield
from src.dicom.header import header_of


def test_header_of_a_competition_file(competition: Path) -> None:
    path = next((competition / "input/stage_2_train").glob("*.dcm"))
    header = read_header(path)
    assert header.PatientID.startswith("ID_")
    assert (header.rows, header.columns)[0] == 64
    assert header.rescale_slope == 1
    assert np.isfinite(header.position).all()
    assert np.linalg.norm(header.orientation[:3]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": None}, "missing_tag"),
        ({"RescaleIntercept": None}, "missing_tag"),
        ({"BitsStored": 17}, "bad_value"),
        ({"Rows": 0}, "bad_value"),
        ({"RescaleSlope": 0}, "bad_value"),
        ({"PhotometricInterpretation": None}, "missing_tag"),
        ({"PixelRepresentation": 7}, "bad_value"),
        ({"NumberOfFrames": 2}, "not_a_slice"),
        ({"SamplesPerPixel": 3}, "not_a_slice"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_a_slice"),
        ({"PhotometricInterpretation": "MONOCHROMEX"}, "not_a_slice"),
        ({"Modality": "MR"}, "not_hounsfield"),
        ({"RescaleType": "HU_MOD"}, "not_hounsfield"),
        ({"RescaleType": "ED"}, "not_hounsfield"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "not_hounsfield"),
    ],
)
def test_reasons_of_headers(
    ct: Path, tags: dict[str, object], reason: str, change: Callable[..., None], reason_of: Callable[[Path], str]
) -> None:
    change(ct, **tags)
    assert reason_of(ct) == reason


@pytest.mark.parametrize(("rows", "columns"), [(65535, 65535), (65535, 1), (2049, 2048)])
def test_huge_declared_sizes(
    ct: Path, rows: int, columns: int, change: Callable[..., None], reason_of: Callable[[Path], str]
) -> None:
    change(ct, Rows=rows, Columns=columns)
    assert reason_of(ct) in ("too_large", "truncated")


def test_absent_geometry_does_not_hinder_reading(ct: Path, change: Callable[..., None]) -> None:
    change(ct, ImagePositionPatient=None, PixelSpacing=None)
    header = read_header(ct)
    assert np.isnan(header.position).all()
    assert np.isnan(header.row_spacing)
    assert read_hounsfield(ct).shape == (128, 128)


@pytest.mark.parametrize(
    "tags", [{"Modality": None}, {"RescaleType": "HU"}, {"RescaleType": "US"}, {"NumberOfFrames": 0}]
)
def test_what_says_no_other_quantity_is_taken_for_hu(
    ct: Path, tags: dict[str, object], change: Callable[..., None]
) -> None:
    before = read_hounsfield(ct)
    change(ct, **tags)
    np.testing.assert_array_equal(read_hounsfield(ct), before)


MALFORMED = [b"1,5\\2,5\\3,5", b"nan\\0\\0", b"0\\inf\\0", b"1\\2", b"1\\2\\3\\4", b"a\\b\\c", b"\\\\", b"1e999\\0\\0"]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_malformed_geometry_is_absent(ct: Path, tag: str, value: bytes, set_bytes: Callable[..., None]) -> None:
    before = read_hounsfield(ct)
    set_bytes(ct, tag, value)
    header = read_header(ct)
    found = {
        "ImagePositionPatient": header.position,
        "ImageOrientationPatient": header.orientation,
        "PixelSpacing": (header.row_spacing, header.column_spacing),
    }
    if (tag, value) != ("PixelSpacing", b"1\\2"):
        assert np.isnan(found.pop(tag)).all()
        assert all(np.isfinite(each).all() for each in found.values())
    np.testing.assert_array_equal(read_hounsfield(ct), before)


def test_zeros_after_numbers(ct: Path, set_bytes: Callable[..., None]) -> None:
    set_bytes(ct, "ImagePositionPatient", b"1.5\0\\ -2 \0\\3\0\0")
    assert read_header(ct).position == (1.5, -2, 3)
    set_bytes(ct, "RescaleIntercept", b"-1024\0")
    assert read_header(ct).rescale_intercept == -1024


def test_half_a_character_in_a_patient_id_is_replaced(ct: Path) -> None:
    # as some character sets decode to; in a table it would stop all slices
    dataset = pydicom.dcmread(ct)
    dataset.PatientID = "A\ud800"
    assert header_of(dataset).PatientID == "A?"
