"""Checksums of files: the one by which they refer to each other, and the one that a file carries of itself.

A sealed file holds a checksum of all its bytes, computed with its own digits set to 0. Formats with room for text hold
it there, so that other programs read them as before; the rest have it at their end.
"""

import hashlib
from pathlib import Path

from xxhash import xxh3_64

from src.errors import UserError
from src.files.atomic import replacing

_NAME, _DIGITS = b"sealed-xxh3-64:", 16
UNSEALED = (_NAME + b"0" * _DIGITS).decode()  # what a writer puts where the checksum is to be


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file, atomically, with its checksum in the place of UNSEALED, or at its end where that does not occur."""
    at = data.find(UNSEALED.encode())
    if data.count(_NAME) > (at >= 0):
        raise ValueError(f"{path}: contents that look like a checksum")
    if at < 0:
        data, at = data + UNSEALED.encode(), len(data)
    start = at + len(_NAME)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(memoryview(data)[:start])
        file.write(_digits(data, start))
        file.write(memoryview(data)[start + _DIGITS :])


def read_sealed(path: Path, *, advice: str = "", step: str | None = None, foreign: bool = False) -> bytes:
    """Read a sealed file: its bytes, without a checksum at their end.

    advice: what to do about a damaged file; step: the step of the pipeline that makes it; foreign: whether it may be
    without a checksum, as files from elsewhere are. Raises UserError where it is missing or its bytes have changed.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing", step=step)
    data = path.read_bytes()
    start = data.find(_NAME) + len(_NAME)
    if start < len(_NAME):
        if foreign:
            return data
        raise UserError(f"{path} has no checksum: it is damaged, or of an earlier version{advice}", step=step)
    if data[start : start + _DIGITS] != _digits(data, start):
        raise UserError(f"{path} is damaged: its bytes do not have their checksum{advice}", step=step)
    return data[: start - len(_NAME)] if start + _DIGITS == len(data) else data


def _digits(data: bytes, start: int) -> bytes:
    """The checksum of a file whose own digits are at `start`."""
    digest = xxh3_64(memoryview(data)[:start])
    digest.update(b"0" * _DIGITS)
    digest.update(memoryview(data)[start + _DIGITS :])
    return b"%016x" % digest.intdigest()
