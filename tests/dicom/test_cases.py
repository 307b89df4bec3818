"""Small files that were read wrongly, or that ended the process, each with what is right."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from src.dicom import UnreadableDicom, read_header, read_hounsfield

CASES = Path(__file__).parent / "cases"


@pytest.fixture(scope="module")
def the_image() -> np.ndarray:
    """The 64 x 64 HU that most of the files hold in some way, as another library reads the plainest of them."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(CASES / "mono2_same_values.dcm")))[0]


@pytest.mark.parametrize(
    "name",
    [
        "mono1",  # stored values mean the same whatever the photometric interpretation
        "rle_high15",  # HighBit 15 with 12 bits stored, in RLE
        "j2k_junk_p16_u12",  # 16 bits in JPEG 2000, of which 12 are the value
        "nodelim_jls_u12_p12",  # no sequence delimiter
        "64",  # explicit, by the transfer syntax implicit
        "spacing_decimal_commas",
    ],
)
def test_the_same_image_in_many_ways(name: str, the_image: np.ndarray) -> None:
    np.testing.assert_array_equal(read_hounsfield(CASES / f"{name}.dcm"), the_image)


def test_bytes_have_no_order() -> None:
    big, little = (pydicom.dcmread(CASES / f"{name}.dcm") for name in ("be8ob", "le8ob"))
    assert big["PixelData"].VR == little["PixelData"].VR == "OB"
    stored = np.frombuffer(little.PixelData, np.uint8).reshape(64, 64)
    expected = stored * float(little.RescaleSlope) + float(little.RescaleIntercept)
    for name in ("be8ob", "le8ob"):
        np.testing.assert_array_equal(read_hounsfield(CASES / f"{name}.dcm"), expected)


@pytest.mark.parametrize("name", ["slope_0.5", "intercept_-50"])
def test_what_did_not_wrap_is_as_stated(name: str) -> None:
    path = CASES / f"{name}.dcm"
    np.testing.assert_array_equal(read_hounsfield(path), SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0])


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("abort_jls", "undecodable", "a precision of 24 bits in JPEG-LS"),
        ("segv_jll", "undecodable", "a precision of 63 bits in JPEG Lossless"),
        ("j2k_rgb_says_mono", "bad_value", "3 samples a pixel, by the header one"),
        ("jpeg_rgb_says_mono", "bad_value", "3 samples a pixel, by the header one"),
        ("j2k_p12_alloc8_mismatch", "bad_value", "12 bits, by the header 8 bits"),
        ("cut_mid_pixels", "truncated", "1016 of 3008 bytes of a fragment"),
        ("ct_z_eff", "not_hounsfield", "RescaleType is Z_EFF; expected HU"),
        ("pet_bqml", "not_hounsfield", "Modality is PT; expected CT"),
    ],
)
def test_refused_with_the_reason(name: str, reason: str, words: str) -> None:
    with pytest.raises(UnreadableDicom, match=words) as refused:
        read_hounsfield(CASES / f"{name}.dcm")
    assert refused.value.reason == reason


def test_malformed_spacing_is_absent() -> None:
    header = read_header(CASES / "spacing_decimal_commas.dcm")
    assert np.isnan([header.row_spacing, header.column_spacing]).all()
    assert np.isfinite(header.position).all()
