import errno
import os
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian

from src.ct.hounsfield import AIR
from src.errors import Stopped
from src.files.dicom import (
    MAX_BYTES,
    REASONS,
    UnreadableDicom,
    hounsfield_of,
    read_header,
    read_hounsfield,
    read_stored,
    stored_hounsfield_of,
)

SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


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
    ("14.dcm", 0, 0, -1000),  # stored -1500, which is padding
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
        padding = pydicom.dcmread(path).PixelPaddingValue
        np.testing.assert_array_equal(hu, np.where(from_bytes == padding, AIR, from_bytes))


def test_golden_values_of_ct_small() -> None:
    # stored values read off the bytes with od; slope 1, intercept -1024
    hu = read_hounsfield(_pydicom_file("CT_small.dcm"))
    assert hu.shape == (128, 128)
    places = [(0, 0), (64, 64), (100, 30), (127, 127)]
    assert [hu[place] for place in places] == [175 - 1024, 1928 - 1024, 1089 - 1024, 909 - 1024]


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
            elif isinstance(value, pydicom.DataElement):
                dataset.add(value)
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
        ({"PhotometricInterpretation": "MONOCHROMEX"}, "not_a_slice"),
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


# ---- tags that change what pixels mean


def test_padding_becomes_air(ct: Path) -> None:
    before = read_hounsfield(ct)
    stored = (before + 1024).astype(int)
    _change(ct, PixelPaddingValue=2000)  # in the middle of bone
    np.testing.assert_array_equal(read_hounsfield(ct), np.where(stored == 2000, AIR, before))
    range_limit = pydicom.DataElement("PixelPaddingRangeLimit", "SS", 1000)
    _change(ct, PixelPaddingRangeLimit=range_limit)  # PS3.3: either end may be the higher
    padding = (stored >= 1000) & (stored <= 2000)
    np.testing.assert_array_equal(read_hounsfield(ct), np.where(padding, AIR, before))
    assert 0.1 < padding.mean() < 0.9


def test_padding_that_the_stored_bits_cannot_hold_is_no_pixels(ct: Path) -> None:
    padding = pydicom.DataElement("PixelPaddingValue", "SS", -2000)  # 2096, in 12 bits: bone
    _rewrite(ct, np.full((4, 4), 2096, dtype=np.uint16), BitsStored=12, HighBit=11, PixelRepresentation=0)
    _change(ct, PixelPaddingValue=padding)
    assert (read_hounsfield(ct) == 2096 - 1024).all()


def test_padding_of_the_real_head_ct(real_head_ct: Path) -> None:
    hu = read_hounsfield(real_head_ct / "14.dcm")
    stored = np.frombuffer(_pixel_bytes(real_head_ct / "14.dcm"), "<i2").reshape(512, 512)
    assert (stored == -1500).sum() > 10000  # the header's PixelPaddingValue
    assert (hu[stored == -1500] == AIR).all()


def _rewrite(path: Path, pixels: np.ndarray, **tags: object) -> None:
    _change(path, PixelData=pixels.tobytes(), Rows=pixels.shape[0], Columns=pixels.shape[1], **tags)


TWELVE_BITS = np.array([[0, 1, 2047], [2048, 3000, 4095]], dtype=np.uint16)


@pytest.mark.parametrize("junk", [0x0000, 0xF000, 0xA000])
def test_bits_that_are_no_part_of_the_value(ct: Path, junk: int) -> None:
    # old scanners keep overlays there
    _rewrite(ct, TWELVE_BITS | junk, BitsStored=12, HighBit=11, PixelRepresentation=0)
    np.testing.assert_array_equal(read_stored(ct)[0], TWELVE_BITS)
    _rewrite(ct, (TWELVE_BITS << 4) | (junk >> 12), BitsStored=12, HighBit=15, PixelRepresentation=0)
    np.testing.assert_array_equal(read_stored(ct)[0], TWELVE_BITS)


def test_the_sign_of_few_bits(ct: Path) -> None:
    _rewrite(ct, TWELVE_BITS, BitsStored=12, HighBit=11, PixelRepresentation=1)
    signed = TWELVE_BITS.astype(int)
    np.testing.assert_array_equal(read_stored(ct)[0], np.where(signed >= 2048, signed - 4096, signed))


def test_other_word_sizes(ct: Path) -> None:
    eight = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    _rewrite(ct, eight, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    np.testing.assert_array_equal(read_stored(ct)[0], eight)
    wide = np.arange(12, dtype=np.int32).reshape(3, 4) * 100_000 - 500_000
    _rewrite(ct, wide, BitsAllocated=32, BitsStored=32, HighBit=31, PixelRepresentation=1)
    np.testing.assert_array_equal(read_hounsfield(ct), wide.astype(np.float32) - 1024)


@pytest.mark.parametrize("slope", ["1", "0.5", "2.75"])
@pytest.mark.parametrize("padding", [None, 0, 1500, -2000])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_is_stored_is_the_hu_rounded_and_clipped(
    ct: Path, slope: str, padding: int | None, photometric: str
) -> None:
    tags = {} if padding is None else {"PixelPaddingValue": padding}
    _change(ct, RescaleSlope=slope, PhotometricInterpretation=photometric, **tags)
    stored, header = read_stored(ct)
    expected = np.rint(np.clip(hounsfield_of(stored, header), -200, 300))
    np.testing.assert_array_equal(stored_hounsfield_of(stored, header), expected)


# ---- a second decoder


PYDICOM_FILES = sorted(
    path for path in _pydicom_file("CT_small.dcm").parent.rglob("*") if path.is_file() and path.stat().st_size < 10**7
)


def _by_simpleitk(path: Path) -> np.ndarray:
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return image.reshape(image.shape[-2:])


def _rescaled(path: Path) -> np.ndarray:
    """Stored value x slope + intercept, before repair and padding."""
    stored, header = read_stored(path)
    if header.photometric_interpretation == "MONOCHROME1":
        assert header.pixel_representation == 0
        stored = (1 << header.bits_stored) - 1 - stored.astype(int)
    return stored * header.rescale_slope + header.rescale_intercept


def test_a_second_decoder_agrees_on_every_ct_that_pydicom_brings() -> None:
    read, refused = set(), {}
    for path in PYDICOM_FILES:
        try:
            ours = _rescaled(path)
        except UnreadableDicom as error:
            refused[path.name] = error.reason
        else:
            np.testing.assert_array_equal(ours, _by_simpleitk(path))
            read.add(path.name)
    assert len(read) > 15
    assert {"CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"} <= read
    assert set(refused.values()) <= set(REASONS)
    assert refused["rtplan.dcm"] == "missing_tag"  # no image
    assert refused["SC_rgb_jpeg.dcm"] == "not_a_slice"


def test_a_second_decoder_agrees_on_the_real_head_ct(real_head_ct: Path) -> None:
    for path in sorted(real_head_ct.glob("*.dcm")):
        np.testing.assert_array_equal(_rescaled(path), _by_simpleitk(path))


@pytest.mark.parametrize("slope", ["1", "0.5", "3"])
@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize("signed", [0, 1])
def test_a_second_decoder_agrees_on_bits_and_slopes(ct: Path, slope: str, bits: int, signed: int) -> None:
    pixels = np.random.default_rng(bits).integers(0, 1 << 16, (32, 32), dtype=np.uint16)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed, "RescaleSlope": slope}
    _rewrite(ct, pixels, PixelPaddingValue=None, **tags)
    np.testing.assert_array_equal(_rescaled(ct), _by_simpleitk(ct))


# every transfer syntax that pydicom's own files show, on images that become CT slices by two tags
OTHER_SYNTAXES = {
    "MR_small_RLE.dcm": "RLE",
    "MR_small_bigendian.dcm": "explicit VR big endian",
    "MR_small_implicit.dcm": "implicit VR",
    "MR_small_expb.dcm": "big endian",
    "MR_small_jp2klossless.dcm": "JPEG 2000",
    "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS",
    "JPEGLSNearLossless_08.dcm": "JPEG-LS near lossless, 8 bits",
    "JPEGLSNearLossless_16.dcm": "JPEG-LS near lossless, 16 bits",
    "JPEG2000.dcm": "JPEG 2000",
    "image_dfl.dcm": "deflated",
    "liver_expb_1frame.dcm": "big endian",
}


@pytest.mark.parametrize("name", [name for name in OTHER_SYNTAXES if "liver" not in name])  # which has single bits
def test_every_transfer_syntax_as_a_second_decoder_reads_it(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(_pydicom_file(name), tmp_path / "ct.dcm"))
    _change(path, RescaleIntercept="-100", RescaleSlope="2")
    np.testing.assert_array_equal(_rescaled(path), _by_simpleitk(path))


@pytest.mark.parametrize(
    "syntax",
    ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"],
)
def test_compressing_without_loss_changes_nothing(ct: Path, tmp_path: Path, syntax: str) -> None:
    import gdcm

    change = gdcm.ImageChangeTransferSyntax()
    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    reader.SetFileName(str(ct))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "compressed.dcm"))
    assert writer.Write()
    stored, header = read_stored(tmp_path / "compressed.dcm")
    assert header.transfer_syntax != read_header(ct).transfer_syntax
    np.testing.assert_array_equal(stored, read_stored(ct)[0])


def test_both_byte_orders_of_eight_bits(ct: Path) -> None:
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5) * 16
    _rewrite(ct, pixels, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(ct)
        dataset.PixelData = np.append(pixels.ravel(), np.uint8(0)).view(np.uint16).byteswap().tobytes()
        dataset["PixelData"].VR = "OW"
        swapped = pydicom.Dataset()  # a new one: pydicom converts no byte order
        swapped.update({element.tag: element for element in dataset if element.VR not in ("SQ", "UN")})
        swapped.file_meta = dataset.file_meta
        swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        swapped.save_as(ct, little_endian=False, implicit_vr=False, enforce_file_format=True)
    np.testing.assert_array_equal(read_stored(ct)[0], pixels)


# ---- files that lie about their size


def _deflated(head: bytes, body: bytes) -> bytes:
    """A deflated file from an explicit VR little endian one's file meta and data set."""
    packer = zlib.compressobj(9, wbits=-15)
    meta = head.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # the UID is two bytes longer: its own length, and that of the group
    at = meta.index(b"\x02\x00\x10\x00UI") + 6
    meta = meta[:at] + b"\x16\x00" + meta[at + 2 :]
    meta = meta[:140] + (int.from_bytes(meta[140:144], "little") + 2).to_bytes(4, "little") + meta[144:]
    return meta + packer.compress(body) + packer.flush()


def _halves(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    return data[:start], data[start:]


def test_a_deflated_file(ct: Path) -> None:
    before, header = read_stored(ct)
    ct.write_bytes(_deflated(*_halves(ct)))
    np.testing.assert_array_equal(read_stored(ct)[0], before)
    assert read_header(ct) == header


def test_a_long_header_is_read_whole(ct: Path) -> None:
    before, header = read_stored(ct)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(ct)
        block = dataset.private_block(0x0011, "TEST", create=True)
        block.add_new(0x01, "UN", bytes(100_000))
        dataset.save_as(ct)
    assert read_header(ct) == header
    np.testing.assert_array_equal(read_stored(ct)[0], before)
    ct.write_bytes(_deflated(*_halves(ct)))
    assert read_header(ct) == header
    np.testing.assert_array_equal(read_stored(ct)[0], before)


def test_a_deflate_bomb(ct: Path) -> None:
    head, body = _halves(ct)
    ct.write_bytes(_deflated(head, body + bytes(MAX_BYTES)))  # 67 MB, that take 65 KB
    assert ct.stat().st_size < 300_000
    assert _reason(ct) == "too_large"
    # one whose file meta hides the transfer syntax from a reader that trusts its length
    meta = bytearray(_deflated(head, body + bytes(MAX_BYTES)))
    meta[140:144] = (10).to_bytes(4, "little")
    ct.write_bytes(meta)
    assert _reason(ct) in REASONS


@pytest.mark.parametrize(("rows", "columns"), [(65535, 65535), (65535, 1), (2049, 2048)])
def test_huge_declared_sizes(ct: Path, rows: int, columns: int) -> None:
    _change(ct, Rows=rows, Columns=columns)
    assert _reason(ct) in ("too_large", "truncated")


def test_a_file_larger_than_any_slice(ct: Path) -> None:
    with ct.open("ab") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    assert _reason(ct) == "too_large"


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_a_compressed_image_of_another_size_than_the_header_says(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(_pydicom_file(name), tmp_path / "ct.dcm"))
    _change(path, RescaleIntercept="0", Rows=read_rows(path) - 1)
    assert _reason(path) == "bad_value"


def read_rows(path: Path) -> int:
    return int(pydicom.dcmread(path, stop_before_pixels=True).Rows)


def test_more_run_length_data_than_an_image_needs(tmp_path: Path) -> None:
    path = Path(shutil.copy(_pydicom_file("MR_small_RLE.dcm"), tmp_path / "ct.dcm"))
    _change(path, RescaleIntercept="0", Rows=8, Columns=8)
    assert _reason(path) == "undecodable"


def test_files_that_are_no_files(tmp_path: Path) -> None:
    loop = tmp_path / "loop.dcm"
    loop.symlink_to(tmp_path / "pool.dcm")
    (tmp_path / "pool.dcm").symlink_to(loop)
    assert _reason(loop) == "missing_file"
    os.mkfifo(tmp_path / "pipe.dcm")
    assert _reason(tmp_path / "pipe.dcm") == "missing_file"
    assert _reason(Path("/dev/zero")) == "missing_file"


def test_errors_of_the_machine_are_not_the_files(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("src.files.dicom.os.open", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        read_hounsfield(ct)


# ---- whatever the bytes are

_FUZZ = """
import resource, sys, time
from pathlib import Path
from src.files.dicom import REASONS, UnreadableDicom, read_hounsfield, read_header
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
read_hounsfield(Path(sys.argv[2]))
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    begun = time.process_time()
    for read in (read_hounsfield, read_header):
        try:
            read(path)
            answer = "image"
        except UnreadableDicom as error:
            answer = error.reason if error.reason in REASONS else "unknown reason " + error.reason
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
    print(f"{answer}\\t{time.process_time() - begun}\\t{grown}", flush=True)
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Callable[[bytes], str]]:
    """Reads bytes as a DICOM file in a process of its own, which a decoder may bring down, and asks what it cost."""
    path = tmp_path_factory.mktemp("fuzz") / "slice.dcm"
    process = subprocess.Popen(
        [sys.executable, "-c", _FUZZ, str(path), str(_pydicom_file("693_J2KI.dcm"))],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def read(data: bytes) -> str:
        path.write_bytes(data)
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the reader's process died"
        outcome, seconds, megabytes = answer.split("\t")
        assert outcome in (*REASONS, "image")
        assert float(seconds) < 2
        assert int(megabytes) < 500
        return outcome

    yield read
    process.kill()
    process.wait()


def _as_ct(path: Path, folder: Path) -> bytes:
    copy = Path(shutil.copy(path, folder / "as_ct.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(copy)
        if "RescaleIntercept" not in dataset:
            _change(copy, RescaleIntercept="-1024", RescaleSlope="1")
    return copy.read_bytes()


SEEDS = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    *(name for name in OTHER_SYNTAXES if "near" not in OTHER_SYNTAXES[name]),
)


def test_every_file_that_pydicom_brings_costs_little(reader: Callable[[bytes], str]) -> None:
    outcomes = [reader(path.read_bytes()) for path in PYDICOM_FILES]
    assert len(outcomes) > 150
    assert {"image", "not_dicom", "missing_tag", "not_a_slice"} <= set(outcomes)


@pytest.mark.parametrize("name", SEEDS)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_mutations(reader: Callable[[bytes], str], tmp_path: Path, name: str, data: st.DataObject) -> None:
    seed = bytearray(_as_ct(_pydicom_file(name), tmp_path))
    header = min(len(seed) - 1, 3000)
    kind = data.draw(st.sampled_from(["header", "pixels", "cut", "double"]))
    if kind in ("header", "pixels"):
        first, last = (128, header) if kind == "header" else (header, len(seed) - 1)
        for _ in range(data.draw(st.integers(1, 6))):
            seed[data.draw(st.integers(first, last))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del seed[data.draw(st.integers(0, len(seed))) :]
    else:
        at = data.draw(st.integers(128, header))
        seed[at:at] = seed[at : at + data.draw(st.integers(1, 400))]
    reader(bytes(seed))
