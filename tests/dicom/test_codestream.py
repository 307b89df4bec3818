import pytest

from src.dicom.codestream import image_size

START, APP0 = b"\xff\xd8", b"\xff\xe0\x00\x04ab"
SIZ = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + b"".join(n.to_bytes(4, "big") for n in (640, 512, 128, 12)) + bytes(20)


def _frame(marker: int) -> bytes:
    return bytes([0xFF, marker]) + b"\x00\x0b\x10\x01\x90\x02\x00\x01\x01\x11\x00"  # 16 bits, 400 rows, 512 columns


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC3, 0xF7])  # baseline, extended, lossless, JPEG-LS
def test_jpeg_says_its_size_in_its_frame_header(marker: int) -> None:
    assert image_size(START + _frame(marker)) == (400, 512)
    # after other segments, one of them Huffman tables (C4, which is no frame), and fill bytes
    assert image_size(START + APP0 + b"\xff\xc4\x00\x04ab" + b"\xff\xff" + _frame(marker)) == (400, 512)


def test_jpeg_2000_says_its_size_without_its_offset() -> None:
    assert image_size(SIZ) == (500, 512)
    assert image_size(b"\x00\x00\x00\x0cjP  " + SIZ) == (500, 512)  # in its file format


@pytest.mark.parametrize("data", [b"", b"\xff", START, START + APP0, START + b"no marker here", bytes(50), SIZ[4:]])
def test_what_does_not_say(data: bytes) -> None:
    assert image_size(data) is None
