from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from src.dicom import UnreadableDicom
from src.dicom.codestream import Codestream, parse_codestream

START, APP0, COMMENT = b"\xff\xd8", b"\xff\xe0\x00\x04ab", b"\xff\xfe\x00\x08\xff\x4f\xff\x51\x00\x29"
SIZ = (
    b"\xff\x4f\xff\x51\x00\x29\x00\x00"
    + b"".join(number.to_bytes(4, "big") for number in (640, 512, 128, 12, 640, 512, 0, 0))
    + b"\x00\x01\x8b\x01\x01"  # one component of 12 signed bits
)


def _frame(marker: int, precision: int = 12, samples: int = 1) -> bytes:
    components = b"".join(bytes([number, 0x11, 0]) for number in range(samples))
    length = (8 + 3 * samples).to_bytes(2, "big")
    return bytes([0xFF, marker]) + length + bytes([precision]) + b"\x01\x90\x02\x00" + bytes([samples]) + components


def _scan(*parameters: int) -> bytes:
    return b"\xff\xda\x00\x08\x01\x00\x00" + bytes(parameters)


KINDS = {
    0xC1: ("JPEG", _scan(0, 63, 0)),
    0xC3: ("JPEG Lossless", _scan(1, 0, 0)),
    0xF7: ("JPEG-LS", _scan(2, 0, 0)),
}


@pytest.mark.parametrize("marker", KINDS)
def test_jpeg_says_its_size_in_its_frame_header(marker: int) -> None:
    coding, scan = KINDS[marker]
    expected = Codestream(coding, rows=400, columns=512, samples=1, precision=12, ended=False)
    assert parse_codestream(START + _frame(marker) + scan) == expected
    # after other segments, one of them Huffman tables (C4, which is no frame), a comment that looks like JPEG 2000, and
    # fill bytes
    before = APP0 + COMMENT + b"\xff\xc4\x00\x04ab" + b"\xff\xff"
    assert parse_codestream(START + before + _frame(marker) + scan) == expected
    assert parse_codestream(START + _frame(marker) + scan + b"data\xff\xd9\0").ended


def test_jpeg_2000_says_its_size_without_its_offset() -> None:
    expected = Codestream("JPEG 2000", rows=500, columns=512, samples=1, precision=12, ended=False)
    assert parse_codestream(SIZ) == expected
    wrapped = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x00jp2c" + SIZ  # in its file format
    assert parse_codestream(wrapped) == expected


LOSSLESS = START + _frame(0xC3)
LS = START + _frame(0xF7)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with"),
        (bytes(50), "begins with 00 00 00 00"),
        (START, "ends within its header"),
        (START + APP0, "ends within its header"),
        (START + b"no marker here", "no marker at byte 2"),
        (START + b"\xff\xd9", "ends within"),
        (START + _scan(1, 0, 0), "no frame header"),
        (LOSSLESS + _frame(0xC3), "two frame headers"),
        (START + _frame(0xC2) + _scan(0, 63, 0), "a kind of JPEG that DICOM does not have"),
        (START + _frame(0xC1, precision=10) + _scan(0, 63, 0), "a precision of 10 bits in JPEG"),
        (START + _frame(0xF7, precision=24) + _scan(0, 0, 0), "a precision of 24 bits in JPEG-LS"),
        (LOSSLESS + _scan(0, 0, 0), "predictor 0"),
        (LOSSLESS + _scan(1, 0, 12), "scan parameters 0, 0c"),
        (LS + _scan(0, 1, 0), "interleave mode 1 with 1 components"),
        (START + _frame(0xF7, precision=2) + _scan(2, 0, 0), "an error bound of 2"),
        (LS + b"\xff\xf8\x00\x0d\x01\xff\xff" + bytes(8) + _scan(0, 0, 0), "a largest value of 65535 in 12 bits"),
        (LS + b"\xff\xf8\x00\x0d\x01\x0f\xff\x00\x09\x00\x03" + bytes(4) + _scan(0, 0, 0), "thresholds out of order"),
        (LS + b"\xff\xf8\x00\x05\x02ab" + _scan(0, 0, 0), "other than thresholds"),
        (START + _frame(0xC3, samples=3)[:-3] + _scan(1, 0, 0), "a sampling of da"),
        (SIZ[:30], "ends within its header"),
        (SIZ[:8] + bytes(8) + SIZ[16:], "an image from 128, 12 to 0, 0"),
        (SIZ[:24] + bytes(8) + SIZ[32:], "tiles of 0 x 0"),
        (SIZ[:24] + b"\0\0\0\x80\0\0\0\x0c" + SIZ[32:], "tiles of 12 x 128"),
        (SIZ[:-1] + b"\x02", "samples 1 x 2 pixels apart"),
    ],
)
def test_damaged_headers(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableDicom, match=words) as refused:
        parse_codestream(data)
    assert refused.value.reason == "undecodable"


def test_an_image_of_countless_tiles() -> None:
    origin, one_pixel = SIZ[16:24], b"\0\0\0\x01\0\0\0\x01"
    with pytest.raises(UnreadableDicom, match="256000 tiles"):
        parse_codestream(SIZ[:24] + one_pixel + origin + SIZ[40:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MR_small_jp2klossless.dcm", ("JPEG 2000", 64, 64, 1, 16)),
        ("MR_small_jpeg_ls_lossless.dcm", ("JPEG-LS", 64, 64, 1, 16)),
        ("SC_rgb_jpeg_gdcm.dcm", ("JPEG Lossless", 100, 100, 3, 8)),
        ("SC_rgb_jpeg_dcmtk.dcm", ("JPEG", 100, 100, 3, 8)),
    ],
)
def test_images_by_other_encoders(pydicom_file: Callable[[str], Path], name: str, expected: tuple[object, ...]) -> None:
    frame = next(generate_frames(dcmread(pydicom_file(name)).PixelData, number_of_frames=1))
    found = parse_codestream(frame)
    assert (found.coding, found.rows, found.columns, found.samples, found.precision) == expected
    assert found.ended
