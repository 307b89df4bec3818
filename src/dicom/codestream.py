"""What a compressed image says of itself, read from its own header before any decoder sees it.

Decoders trust that header: they allocate what it claims, and some end the process where it contradicts itself.
Sources: ITU-T T.81 (JPEG), T.87 (JPEG-LS), T.800 (JPEG 2000); DICOM PS3.5 8.2 and A.4.
"""

from dataclasses import dataclass

from src.dicom.file import UnreadableDicom

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOC_SIZ = b"\xff\x4f\xff\x51"  # how a JPEG 2000 codestream begins: T.800 A.4.1, A.5.1
_JP2 = b"\0\0\0\x0cjP  "  # ... and a JP2 file that wraps one: T.800 I.5.1
_MAX_TILES = 65535  # T.800 A.4.2: a tile's index takes 16 bits
_CODINGS = {0xC0: "JPEG", 0xC1: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}  # by the marker of the frame header

# Transfer syntaxes and the codings that they may hold, PS3.5 A.4
CODINGS_OF = {
    "1.2.840.10008.1.2.4.50": ("JPEG",),
    "1.2.840.10008.1.2.4.51": ("JPEG",),
    "1.2.840.10008.1.2.4.57": ("JPEG Lossless",),
    "1.2.840.10008.1.2.4.70": ("JPEG Lossless",),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS",),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS",),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000",),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000",),
    "1.2.840.10008.1.2.4.201": ("JPEG 2000",),
    "1.2.840.10008.1.2.4.202": ("JPEG 2000",),
    "1.2.840.10008.1.2.4.203": ("JPEG 2000",),
}


@dataclass(frozen=True)
class Codestream:
    """The header of a compressed image."""

    coding: str  # JPEG, JPEG Lossless, JPEG-LS or JPEG 2000
    rows: int
    columns: int
    samples: int  # per pixel
    precision: int  # bits of a sample
    ended: bool  # whether it ends with its end marker


def parse_codestream(data: bytes) -> Codestream:
    """Read the header of a JPEG, JPEG Lossless, JPEG-LS or JPEG 2000 image.

    Raises UnreadableDicom ("undecodable") if it is none of these, or if its header is damaged or no encoder's.
    """
    ended = data.rstrip(b"\0").endswith(_EOI)  # an odd length is padded with a zero
    try:
        if data.startswith(_SOI):
            return _jpeg(data, ended=ended)
        if data.startswith(_JP2):
            data = _wrapped(data)
        if data.startswith(_SOC_SIZ):
            return _jpeg_2000(data, ended=ended)
    except IndexError:
        raise UnreadableDicom("undecodable", "the compressed image ends within its header") from None
    raise UnreadableDicom("undecodable", f"a compressed image that begins with {data[:4].hex(' ')}")


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "big")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UnreadableDicom("undecodable", f"a damaged header of the compressed image: {message}")


def _jpeg(data: bytes, *, ended: bool) -> Codestream:
    """Walk the marker segments up to the image's data: T.81 B.1.1.4, B.2."""
    found: Codestream | None = None
    components: list[int] = []
    at = 2
    while True:
        _require(_number(data, at, 1) == 0xFF, f"no marker at byte {at}")
        marker = _number(data, at + 1, 1)
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = _number(data, at + 2, 2)
        segment = data[at + 4 : at + 2 + length]
        _require(len(segment) == length - 2, f"marker {marker:02x} with a length of {length}")
        if marker in _CODINGS:
            _require(found is None, "two frame headers")
            found, components = _frame_header(_CODINGS[marker], segment, ended=ended)
        elif marker == 0xF8:
            _require(found is None or found.coding == "JPEG-LS", "JPEG-LS parameters in another coding")
            _preset(segment, found)
        elif marker == 0xDA:
            _require(found is not None, "no frame header")
            assert found is not None  # noqa: S101 - for mypy
            _scan(segment, found, components)
            return found
        else:
            _require(marker not in (0xD8, 0xD9) and not 0xD0 <= marker <= 0xD7, f"marker {marker:02x} in the header")
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                raise UnreadableDicom("undecodable", f"a kind of JPEG that DICOM does not have (marker {marker:02x})")
        at += 2 + length


def _frame_header(coding: str, segment: bytes, *, ended: bool) -> tuple[Codestream, list[int]]:
    """T.81 B.2.2, and T.87 C.2.2 for JPEG-LS."""
    precision, rows, columns, samples = (_number(segment, at, size) for at, size in ((0, 1), (1, 2), (3, 2), (5, 1)))
    _require(len(segment) == 6 + 3 * samples, f"a frame header of {len(segment)} bytes for {samples} components")
    allowed = (8, 12) if coding == "JPEG" else range(2, 17)
    _require(precision in allowed, f"a precision of {precision} bits in {coding}")
    for component in range(samples):
        sampling = segment[7 + 3 * component]
        _require(1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4, f"a sampling of {sampling:02x}")
    return Codestream(coding, rows, columns, samples, precision, ended), list(segment[6::3])


def _scan(segment: bytes, frame: Codestream, components: list[int]) -> None:
    """The parameters of the first scan: T.81 B.2.3, and T.87 C.2.3 for JPEG-LS."""
    count = _number(segment, 0, 1)
    _require(1 <= count <= frame.samples, f"a scan of {count} of {frame.samples} components")
    _require(len(segment) == 4 + 2 * count, f"a scan header of {len(segment)} bytes for {count} components")
    _require(set(segment[1 : 1 + 2 * count : 2]) <= set(components), "a scan of components that the frame lacks")
    first, second, third = segment[-3:]
    if frame.coding == "JPEG-LS":
        _require(first <= min(255, ((1 << frame.precision) - 1) // 2), f"an error bound of {first}")
        _require(second <= (2 if count > 1 else 0), f"interleave mode {second} with {count} components")
        _require(third == 0, f"a point transform of {third:02x}")
    elif frame.coding == "JPEG Lossless":
        _require(1 <= first <= 7, f"predictor {first}")
        _require(second == 0 and third < frame.precision, f"scan parameters {second}, {third:02x}")
    else:
        _require((first, second, third) == (0, 63, 0), f"scan parameters {first}, {second}, {third:02x}")


def _preset(segment: bytes, frame: Codestream | None) -> None:
    """Preset parameters of JPEG-LS: T.87 C.2.4.1. Mapping tables are not for monochrome images."""
    _require(_number(segment, 0, 1) == 1 and len(segment) == 11, "JPEG-LS parameters other than thresholds")
    largest, low, middle, high, reset = (_number(segment, at, 2) for at in (1, 3, 5, 7, 9))
    if frame is not None:
        _require(largest < 1 << frame.precision, f"a largest value of {largest} in {frame.precision} bits")
    most = largest or (1 << 16) - 1  # 0 stands for a default
    ordered = [each for each in (low, middle, high) if each]
    _require(ordered == sorted(ordered) and all(each <= most for each in ordered), "thresholds out of order")
    _require(reset == 0 or 3 <= reset <= max(255, most), f"a reset interval of {reset}")


def _wrapped(data: bytes) -> bytes:
    """The codestream in a JP2 file: the contents of its first box of that type, T.800 I.4."""
    at = 0
    while True:
        length, kind = _number(data, at, 4), data[at + 4 : at + 8]
        start = at + 8
        if length == 1:
            length, start = _number(data, at + 8, 8), at + 16
        if kind == b"jp2c":
            return data[start:]
        _require(length >= start - at, f"a box of {length} bytes")
        at += length


def _jpeg_2000(data: bytes, *, ended: bool) -> Codestream:
    """The SIZ marker segment: T.800 A.5.1."""
    length, samples = _number(data, 4, 2), _number(data, 40, 2)
    right, bottom, left, top, *tiles = (_number(data, at, 4) for at in range(8, 40, 4))
    tile_width, tile_height, tile_left, tile_top = tiles
    _require(samples >= 1 and length == 38 + 3 * samples, f"a size segment of {length} bytes for {samples} components")
    _require(left < right and top < bottom, f"an image from {left}, {top} to {right}, {bottom}")
    _require(
        tile_width > 0 and tile_height > 0 and tile_left <= left < tile_left + tile_width
        and tile_top <= top < tile_top + tile_height,
        f"tiles of {tile_height} x {tile_width}",
    )  # fmt: skip
    count = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    _require(count <= _MAX_TILES, f"{count} tiles")
    depth, across, down = (_number(data, at, 1) for at in (42, 43, 44))
    _require((across, down) == (1, 1), f"samples {across} x {down} pixels apart")
    return Codestream("JPEG 2000", bottom - top, right - left, samples, (depth & 0x7F) + 1, ended)
