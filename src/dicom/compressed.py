"""Compressed pixels: from the fragments of the pixel data element to the cells of one image."""

import numpy as np
from pydicom.uid import RLELossless

from src.dicom.codestream import CODINGS_OF, parse_codestream
from src.dicom.decoder import FrameHeader, decode, decode_here
from src.dicom.file import UnreadableDicom
from src.dicom.header import Header

_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0"


def decompress(value: memoryview, header: Header) -> np.ndarray:
    """Decode a compressed pixel data element: (rows, columns) of an unsigned type, the cells before bits are taken out.

    value: what follows the element's header. Raises UnreadableDicom.
    """
    frame, delimited = _frame(value)
    if header.transfer_syntax == RLELossless:
        return _run_lengths(frame, header)
    if header.transfer_syntax not in CODINGS_OF:
        raise UnreadableDicom("undecodable", f"no decoder for the transfer syntax {header.transfer_syntax}")
    found = parse_codestream(frame)
    codings = CODINGS_OF[header.transfer_syntax]
    if found.coding not in codings:
        raise UnreadableDicom("bad_value", f"a {found.coding} image, by the header {' or '.join(codings)}")
    if (found.rows, found.columns) != (header.rows, header.columns):
        raise UnreadableDicom(
            "bad_value",
            f"a compressed image of {found.rows} x {found.columns}, the header says {header.rows} x {header.columns}",
        )
    if found.samples != 1:
        raise UnreadableDicom("bad_value", f"a compressed image of {found.samples} samples a pixel, by the header one")
    if not header.high_bit < found.precision <= header.bits_allocated:
        raise UnreadableDicom(
            "bad_value",
            f"a compressed image of {found.precision} bits, by the header {header.bits_stored} bits up to bit "
            f"{header.high_bit} of {header.bits_allocated}",
        )
    if not (delimited or found.ended):
        raise UnreadableDicom("truncated", "neither the compressed image nor its element has an end")
    return _decoded(decode(frame, _frame_header(header, found.precision)), header)


def _frame(value: memoryview) -> tuple[bytes, bool]:
    """The only frame of encapsulated pixels: (its fragments joined, whether the sequence was delimited). PS3.5 A.4.

    A missing delimiter costs nothing where all fragments are there.
    """
    if value[:4] != _ITEM:
        raise UnreadableDicom("bad_value", "uncompressed pixels, by the header compressed")
    fragments, at, delimited = [], 0, False
    while at < len(value):
        tag = bytes(value[at : at + 4])
        if tag == _DELIMITER[: len(tag)]:
            delimited = tag == _DELIMITER
            break
        if tag != _ITEM[: len(tag)]:
            raise UnreadableDicom("undecodable", f"no fragment where one was expected, but {tag.hex(' ')}")
        start, length = at + 8, int.from_bytes(value[at + 4 : at + 8], "little")
        if start > len(value) or length > len(value) - start:
            raise UnreadableDicom("truncated", f"{max(len(value) - start, 0)} of {length} bytes of a fragment")
        fragments.append(value[start : start + length])
        at = start + length
    frame = b"".join(fragments[1:])  # the first item is the offset table
    if not frame:
        raise UnreadableDicom("no_pixels", "the file holds no pixel data")
    return frame, delimited


def _run_lengths(frame: bytes, header: Header) -> np.ndarray:
    """RLE, PS3.5 G: decoded in this process, by Python code that can't end it."""
    # at worst, a sensible encoder writes two bytes per byte of the image
    if len(frame) > 2 * header.rows * header.columns * header.bits_allocated // 8 + 64:
        raise UnreadableDicom("undecodable", "more run-length data than the image can need")
    segments = int.from_bytes(frame[:4], "little")
    if segments != header.bits_allocated // 8:
        raise UnreadableDicom(
            "bad_value", f"{segments} segments of run-length data, by the header {header.bits_allocated // 8}"
        )
    try:
        return _decoded(decode_here(frame, _frame_header(header, header.bits_stored)), header)
    except UnreadableDicom:
        raise
    except Exception as error:
        raise UnreadableDicom("undecodable", f"{type(error).__name__}: {error}") from error


def _frame_header(header: Header, precision: int) -> FrameHeader:
    return FrameHeader(header.transfer_syntax, header.rows, header.columns, header.bits_allocated, precision)


def _decoded(cells: np.ndarray, header: Header) -> np.ndarray:
    if cells.shape != (header.rows, header.columns):
        raise UnreadableDicom("undecodable", f"decoded to pixels of shape {cells.shape}")
    return cells
