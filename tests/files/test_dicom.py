import shutil
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from src.errors import Stopped
from src.files.dicom import REASONS, UnreadableDicom, read_header, read_hounsfield


def _pydicom_file(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def _pixel_bytes(path: Path) -> bytes:
    """The last element of an Explicit VR Little Endian file, found by its tag: no DICOM library has a say."""
    data = path.read_bytes()
    start = data.rfind(b"\xe0\x7f\x10\x00OW\x00\x00")
    length = int.from_bytes(data[start + 8 : start + 12], "little")
    return data[start + 12 : start + 12 + length]


# (file, row, column, HU), read off the files' bytes with od
REAL_VALUES = [
    ("14.dcm", 256, 256, 4),
    ("14.dcm", 200, 300, 34),
    ("14.dcm", 300, 180, 27),
    ("14.dcm", 100, 256, 35),
    ("14.dcm", 0, 0, -1500),
    ("14.dcm", 255, 100, 64),
    ("20.dcm", 256, 256, 12),
    ("20.dcm", 150, 260, 32),
    ("20.dcm", 330, 300, 22),
]


@pytest.mark.parametrize(("name", "row", "column", "hu"), REAL_VALUES)
def test_golden_values_of_the_real_head_ct(real_head_ct: Path, name: str, row: int, column: int, hu: int) -> None:
    assert read_hounsfield(real_head_ct / name)[row, column] == hu


def test_every_pixel_of_the_real_head_ct(real_head_ct: Path) -> None:
    for path in sorted(real_head_ct.glob("*.dcm")):
        from_bytes = np.frombuffer(_pixel_bytes(path), "<i2").reshape(512, 512)  # slope 1, intercept 0
        hu = read_hounsfield(path)
        assert hu.dtype == np.float32
        np.testing.assert_array_equal(hu, from_bytes)


def test_golden_values_of_ct_small() -> None:
    # stored values read off the bytes with od; slope 1, intercept -1024
    hu = read_hounsfield(_pydicom_file("CT_small.dcm"))
    assert hu.shape == (128, 128)
    places = [(0, 0), (64, 64), (100, 30), (127, 127)]
    assert [hu[place] for place in places] == [175 - 1024, 1928 - 1024, 1089 - 1024, 909 - 1024]


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_jpeg_2000_as_a_second_decoder_reads_it(name: str) -> None:
    path = _pydicom_file(name)
    dataset = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.pixel_array_options(decoding_plugin="pillow")
        second = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    np.testing.assert_array_equal(read_hounsfield(path), second)


def test_every_ct_that_pydicom_brings_is_read_or_refused_with_a_reason() -> None:
    read, refused = [], {}
    for path in sorted(_pydicom_file("CT_small.dcm").parent.glob("*.dcm")):
        try:
            hu = read_hounsfield(path)
        except UnreadableDicom as error:
            refused[path.name] = error.reason
        else:
            assert hu.ndim == 2
            assert np.isfinite(hu).all()
            read.append(path.name)
    assert {"CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"} <= set(read)
    assert set(refused.values()) <= set(REASONS)
    assert refused["rtplan.dcm"] == "missing_tag"  # no image


def test_generated_slices_give_plausible_hu_without_a_warning(competition: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted((competition / "input/stage_2_test").glob("*.dcm"))[:8]:
            try:
                hu = read_hounsfield(path)
            except UnreadableDicom as error:
                assert error.reason == "truncated"  # noqa: PT017 - one file is
            else:
                brain = hu[(hu > 0) & (hu < 80)]
                assert 20 < np.median(brain) < 45
                assert hu.max() > 300  # bone


def test_header_of_a_competition_file(competition: Path) -> None:
    path = next((competition / "input/stage_2_train").glob("*.dcm"))
    header = read_header(path)
    assert header.PatientID.startswith("ID_")
    assert (header.rows, header.columns)[0] == 64
    assert header.rescale_slope == 1
    assert np.isfinite(header.position).all()
    assert np.linalg.norm(header.orientation[:3]) == pytest.approx(1, abs=1e-4)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return Path(shutil.copy(_pydicom_file("CT_small.dcm"), tmp_path / "ct.dcm"))


def _change(path: Path, **tags: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(path)


def _reason(path: Path) -> str:
    with pytest.raises(UnreadableDicom) as error:
        read_hounsfield(path)
    assert str(error.value)
    return error.value.reason


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelData": None}, "no_pixels"),
        ({"Rows": None}, "missing_tag"),
        ({"RescaleIntercept": None}, "missing_tag"),
        ({"BitsStored": 17}, "bad_value"),
        ({"Rows": 0}, "bad_value"),
        ({"RescaleSlope": 0}, "bad_value"),
        ({"RescaleSlope": "1e38"}, "bad_value"),
        ({"PhotometricInterpretation": None}, "missing_tag"),
        ({"PixelRepresentation": 7}, "bad_value"),
        ({"ImagePositionPatient": [1, 2]}, "bad_value"),
        ({"NumberOfFrames": 2}, "not_a_slice"),
        ({"SamplesPerPixel": 3}, "not_a_slice"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_a_slice"),
        ({"Rows": 256}, "truncated"),
    ],
)
def test_reasons(ct: Path, tags: dict[str, object], reason: str) -> None:
    _change(ct, **tags)
    assert _reason(ct) == reason


def test_an_unknown_transfer_syntax(ct: Path) -> None:
    data = ct.read_bytes()
    assert data.count(b"1.2.840.10008.1.2.1\0") == 1
    ct.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"))
    assert _reason(ct) in REASONS


def test_reasons_of_files_that_are_no_dicom(tmp_path: Path, ct: Path) -> None:
    assert _reason(tmp_path / "none.dcm") == "missing_file"
    assert _reason(tmp_path) == "missing_file"
    (tmp_path / "empty.dcm").touch()
    assert _reason(tmp_path / "empty.dcm") == "not_dicom"
    (tmp_path / "text.dcm").write_text("not DICOM at all" * 50)
    assert _reason(tmp_path / "text.dcm") == "not_dicom"
    ct.write_bytes(ct.read_bytes()[:-5000])
    assert _reason(ct) in ("truncated", "no_pixels")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(128, 6500), st.integers(0, 255)), min_size=1, max_size=5))
def test_whatever_bytes_are_damaged_there_is_an_image_or_a_reason(ct: Path, damage: list[tuple[int, int]]) -> None:
    data = bytearray(_pydicom_file("CT_small.dcm").read_bytes())
    for place, value in damage:
        data[place] = value
    ct.write_bytes(data)
    try:
        assert np.isfinite(read_hounsfield(ct)).all()
    except UnreadableDicom as error:
        assert error.reason in REASONS  # noqa: PT017 - either is right


def test_being_told_to_stop_is_no_fault_of_the_file(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SIGTERM comes as an exception, also in the middle of a file; it must end the run, not reject the slice
    def stop(*args: object, **how: object) -> None:
        raise Stopped("SIGTERM")

    monkeypatch.setattr("src.files.dicom.pydicom.dcmread", stop)
    with pytest.raises(Stopped):
        read_hounsfield(ct)


def test_absent_geometry_does_not_hinder_reading(ct: Path) -> None:
    _change(ct, ImagePositionPatient=None, PixelSpacing=None)
    header = read_header(ct)
    assert np.isnan(header.position).all()
    assert np.isnan(header.row_spacing)
    assert read_hounsfield(ct).shape == (128, 128)


def test_monochrome1_is_turned_round(ct: Path) -> None:
    as_it_is = read_hounsfield(ct)
    _change(ct, PhotometricInterpretation="MONOCHROME1")
    # 16-bit signed: the lowest stored value and the highest change places, and so on inwards
    np.testing.assert_array_equal(read_hounsfield(ct), -1 - (as_it_is + 1024) - 1024)
