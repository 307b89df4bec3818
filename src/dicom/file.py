"""The bytes of a DICOM file or archive member, read and parsed within bounds.

Whatever is wrong with a slice is reported as one exception, UnreadableDicom, with a reason code:

    missing_file      no such file, or it cannot be opened or read
    damaged_archive   the archive does not hold what its directory says
    not_dicom         not a DICOM file, or its header cannot be parsed
    missing_tag       a tag that the pixels depend on (rows, columns, bits, ...) is absent or empty
    not_hounsfield    pixels of another quantity than HU: another modality, another unit, or a lookup table
    not_a_slice       several frames, several samples per pixel (colour), or not monochrome
    bad_value         a tag has an invalid value
    too_large         larger than any CT slice: more than MAX_PIXELS or MAX_BYTES
    no_pixels         no pixel data
    truncated         fewer pixel bytes than the header promises
    undecodable       the transfer syntax or the compressed data cannot be decoded

Sizes stated in a file are checked before they are used. No more than a few times MAX_BYTES is ever allocated, whatever
the header, a compressed image or a deflated data set claims.
"""

import errno
import io
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian

from src.dicom.archive import ArchiveMember, DamagedMember
from src.dicom.sources import Source

REASONS = (
    "missing_file",
    "damaged_archive",
    "not_dicom",
    "missing_tag",
    "not_hounsfield",
    "not_a_slice",
    "bad_value",
    "too_large",
    "no_pixels",
    "truncated",
    "undecodable",
)

MAX_BYTES = 64 * 1024 * 1024  # of a slice's file; MAX_PIXELS pixels of 32 bits take a quarter of it
MAX_ENHANCED_BYTES = 8 * MAX_BYTES  # of a file of many frames: a thousand of 512 x 512
HEAD_BYTES = 16 * 1024  # the competition's headers take 1 to 2 KiB, a clinical header with private tags about 10 KiB

# Errors that concern a single file. Any other error (too many open files, a lost mount) concerns the machine and ends
# the run.
_FILE_ERRORS = {
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "EIO", "ENXIO")
}

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # deflated explicit VR little endian, PS3.5 A.5
_INFLATED = b"1.2.840.10008.1.2.1\0\0\0"  # explicit VR little endian without deflation, padded to the same length


class UnreadableDicom(Exception):  # noqa: N818 - it names the state of a file
    """A file that cannot be read as a CT slice. `reason` is one of REASONS; the text gives the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, even where a decoder's message has several
        self.reason = reason


def read_file(source: Path | Source) -> bytes:
    """Read all bytes of a slice's file.

    Raises UnreadableDicom if the file is missing, damaged or too large, and OSError for errors of the machine.
    """
    return read_bytes(source, None)[0]


def read_bytes(source: Path | Source, at_most: int | None, *, limit: int = MAX_BYTES) -> tuple[bytes, bool]:
    """Read a slice's file, or its first `at_most` bytes: (bytes, whether they are the whole file).

    limit: the size in bytes beyond which a file is too large. Raises UnreadableDicom and OSError like `read_file`.
    """
    if isinstance(source, ArchiveMember):
        return _read_member(source, at_most, limit)
    try:
        # non-blocking: opening a named pipe would otherwise wait for ever
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:  # noqa: PTH123
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise UnreadableDicom("missing_file", "not a file but a folder, a pipe or a device")
            if state.st_size > limit:
                raise UnreadableDicom("too_large", f"{state.st_size} bytes; a CT slice has at most {limit}")
            whole = at_most is None or at_most >= state.st_size
            return file.read(state.st_size if whole else at_most), whole
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        absent = error.errno in (errno.ENOENT, errno.ENOTDIR)
        raise UnreadableDicom("missing_file", "no such file" if absent else str(error.strerror)) from error


def _read_member(member: ArchiveMember, at_most: int | None, limit: int) -> tuple[bytes, bool]:
    if member.size > limit:
        raise UnreadableDicom("too_large", f"{member.size} bytes; a CT slice has at most {limit}")
    try:
        return member.read(at_most), at_most is None or at_most >= member.size
    except DamagedMember as error:
        raise UnreadableDicom("damaged_archive", str(error)) from error
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise UnreadableDicom("damaged_archive", f"{member.archive}: {error.strerror}") from error


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Suppress pydicom's warnings and turn its exceptions into UnreadableDicom.

    The competition's UIDs (`ID_...`) are not valid UIDs, and pydicom would warn each time it looks at one. On damaged
    files, pydicom and its decoders raise all kinds of exceptions, even when a tag is only looked at. OSErrors, which
    `read_bytes` raises for errors of the machine, pass unchanged.
    """
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            yield
        except (UnreadableDicom, OSError):
            raise
        except Exception as error:
            raise UnreadableDicom("bad_value", f"{type(error).__name__}: {error}") from error


def read_tags(source: Path | Source, tags: list[BaseTag], *, limit: int = MAX_BYTES) -> pydicom.Dataset:
    """Read some tags of a file without its pixels; only its first bytes where they reach that far.

    limit: as for `read_bytes`. To be called within `quiet_pydicom`. Raises UnreadableDicom and OSError.
    """
    data, whole = read_bytes(source, HEAD_BYTES, limit=limit)
    parsed = None if whole else parse_head(without_deflation(data), tags)
    if parsed is None:
        data = data if whole else read_bytes(source, None, limit=limit)[0]
        parsed = parse(without_deflation(data), tags, stop_before_pixels=True)
    return parsed[0]


def parse_head(head: bytes, tags: list[BaseTag]) -> tuple[pydicom.Dataset, int] | None:
    """Parse the first bytes of a file up to its pixels, like `parse`; None if they do not reach the pixels."""
    try:
        dataset, pixels = parse(head, tags, stop_before_pixels=True)
    except UnreadableDicom:  # cut off within an element, or damaged: parsing the whole file will tell
        return None
    return (dataset, pixels) if pixels < len(head) else None


def parse(data: bytes, tags: list[BaseTag] | None, *, stop_before_pixels: bool = False) -> tuple[pydicom.Dataset, int]:
    """Parse some tags of a file, None for all: (data set, offset in bytes where the parser stopped).

    The offset is that of the pixel data element, or the end of the file. Raises UnreadableDicom.
    """
    _check_byte_order(data)
    buffer = io.BytesIO(data)
    try:
        dataset = pydicom.dcmread(buffer, specific_tags=tags, stop_before_pixels=stop_before_pixels)
    except Exception as error:
        raise UnreadableDicom("not_dicom", f"{type(error).__name__}: {error}") from error
    return dataset, buffer.tell()


def _check_byte_order(data: bytes) -> None:
    """Raise UnreadableDicom if the first tag of the data set is in another byte order than the transfer syntax says.

    All tags would be taken for others. (Whether value representations are explicit, pydicom finds out by itself.)
    """
    start = _end_of_meta(data)
    group = data[start : start + 2]
    if not start or len(group) < 2 or int.from_bytes(group, "little") == int.from_bytes(group, "big"):
        return
    is_big = int.from_bytes(group, "big") < int.from_bytes(group, "little")  # those of the first tags are small
    says_big = f"{ExplicitVRBigEndian}\0".encode() in data[:start]
    if is_big != says_big:
        orders = ("little", "big")
        raise UnreadableDicom(
            "bad_value", f"a data set in {orders[is_big]} endian, by its transfer syntax in {orders[says_big]} endian"
        )


def _end_of_meta(data: bytes) -> int:
    """Where the data set begins, by (0002,0000), the first element after preamble and prefix (PS3.10 7.1); else 0."""
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return 0
    return 144 + int.from_bytes(data[140:144], "little")


def is_deflated(data: bytes) -> bool:
    """Whether a file, or its head, names the deflated transfer syntax anywhere."""
    return _DEFLATED in data


def without_deflation(data: bytes) -> bytes:
    """Inflate a deflated data set within MAX_BYTES; other files are returned as they are.

    pydicom would inflate it without a limit. To make sure that it never does, the UID of the deflated syntax is
    replaced everywhere in the file; none of the tags that are read can contain it. Raises UnreadableDicom if the data
    set is too large.
    """
    if not is_deflated(data):
        return data
    start = _end_of_meta(data)
    meta, body = data[:start], data[start:]
    if _DEFLATED in meta:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            body = inflater.decompress(body, MAX_BYTES)
        except zlib.error as error:
            raise UnreadableDicom("bad_value", f"by its transfer syntax deflated, but {error}") from error
        if inflater.unconsumed_tail:
            raise UnreadableDicom("too_large", f"inflates to more than {MAX_BYTES} bytes")
    return meta.replace(_DEFLATED, _INFLATED) + body.replace(_DEFLATED, _INFLATED)
