"""Files of a zip archive, read in place: Kaggle's download need not be unpacked.

The archive's directory is read once. It gives an ArchiveMember for each file, a few numbers that fit into a table. With
them, reading a member costs no more than reading a separate file: open, seek, inflate.

Source of the format: PKWARE, APPNOTE.TXT 6.3.10, 4.3.7 (local file header) and 4.4 (fields).
"""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError, first_few

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_EXTRACTED = 1 << 30  # bytes of a file that is read whole; Kaggle's largest CSV takes an eighth of it

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\3\4"


class DamagedMember(Exception):  # noqa: N818 - it names the state of a file
    """The archive does not contain what its directory says about a member."""


class ArchiveMember(NamedTuple):
    """A file in an archive. It is a tuple, so that any engine can send it to workers cheaply."""

    archive: str
    name: str
    offset: int  # of the local header, in bytes
    packed_size: int
    size: int
    crc32: int
    method: int  # one of METHODS

    def read(self, at_most: int | None = None) -> bytes:
        """Read the file, or its first `at_most` bytes. Only a file that is read whole is checked against its CRC.

        Memory is bounded by the size that the directory states. Raises DamagedMember, and OSError if the archive itself
        cannot be read.
        """
        with Path(self.archive).open("rb", buffering=0) as file:
            descriptor = file.fileno()
            head = os.pread(descriptor, _LOCAL_HEADER.size, self.offset)
            if len(head) < _LOCAL_HEADER.size or not head.startswith(_SIGNATURE):
                raise DamagedMember(f"no file begins at byte {self.offset} of {self.archive}")
            name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)[-2:]
            start = self.offset + _LOCAL_HEADER.size
            if os.pread(descriptor, name_bytes, start).rpartition(b"/")[2] != self.name.rpartition("/")[2].encode():
                raise DamagedMember(f"another file than {self.name} begins at byte {self.offset} of {self.archive}")
            start += name_bytes + extra_bytes
            if self.method == zipfile.ZIP_STORED:
                data = os.pread(descriptor, self.size if at_most is None else min(at_most, self.size), start)
            else:
                data = self._inflate(descriptor, start, at_most)
        if at_most is not None and at_most < self.size:
            return data
        if len(data) != self.size or zlib.crc32(data) != self.crc32:
            raise DamagedMember(f"{self.name} in {self.archive} does not have the checksum that the archive states")
        return data

    def _inflate(self, descriptor: int, start: int, at_most: int | None) -> bytes:
        limit = self.size if at_most is None else min(at_most, self.size)
        # deflated data that does not compress at all takes no more bytes than this
        packed = os.pread(descriptor, min(self.packed_size, limit + limit // 8 + 1024), start)
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, max(limit, 1))
        except zlib.error as error:
            raise DamagedMember(f"{self.name} in {self.archive} cannot be inflated: {error}") from error


def find_members(archive: Path, names: list[str]) -> list[ArchiveMember | None]:
    """Find files by name at any depth of an archive, in the order of `names`; None for those that are absent.

    Raises UserError if the archive is truncated or damaged, if it has two different files of a requested name, and for
    members that only an unzip program can read (encrypted, or compressed by another method).
    """
    found: dict[str, ArchiveMember] = {}
    wanted = set(names)
    whole = archive.stat().st_size
    with _opened(archive) as opened:
        for entry in opened.infolist():
            name = entry.filename.rpartition("/")[2]
            if name not in wanted:
                continue
            if entry.compress_type not in METHODS or entry.flag_bits & 0x1:
                raise UserError(f"{archive}: {entry.filename} is encrypted or packed in an unusual way; unpack it")
            end = entry.header_offset + _LOCAL_HEADER.size + entry.compress_size
            if entry.header_offset < 0 or end > whole:
                raise UserError(f"{archive} is truncated: it lacks bytes of {entry.filename}; download it again")
            member = _member(archive, entry)
            other = found.setdefault(name, member)
            if (other.crc32, other.size) != (member.crc32, member.size):
                raise UserError(f"{archive} has two different files {name}: {other.name} and {member.name}")
    return [found.get(name) for name in names]


def list_members(archive: Path) -> tuple[list[ArchiveMember], list[str]]:
    """All files of an archive: (those that can be read, names of those that are encrypted or packed unusually).

    Raises UserError if the archive is truncated or damaged.
    """
    members, unusual = [], []
    with _opened(archive) as opened:
        for entry in opened.infolist():
            if entry.is_dir():
                continue
            if entry.compress_type not in METHODS or entry.flag_bits & 0x1:
                unusual.append(entry.filename)
            else:
                members.append(_member(archive, entry))
    return members, unusual


def _member(archive: Path, entry: zipfile.ZipInfo) -> ArchiveMember:
    return ArchiveMember(
        str(archive),
        entry.filename,
        entry.header_offset,
        entry.compress_size,
        entry.file_size,
        entry.CRC,
        entry.compress_type,
    )


def extract(archive: Path, names: list[str]) -> dict[str, bytes]:
    """Read some small files by name at any depth: {name: contents}, without those that are absent.

    Raises UserError like `find_members`, and for a file of more than MAX_EXTRACTED bytes.
    """
    contents = {}
    for name, member in zip(names, find_members(archive, names), strict=True):
        if member is not None and member.size > MAX_EXTRACTED:
            raise UserError(f"{archive}: {name} inflates to {member.size} bytes; expected at most {MAX_EXTRACTED}")
        if member is not None:
            try:
                contents[name] = member.read()
            except DamagedMember as error:
                raise UserError(f"{archive} is damaged: {error}; download it again") from error
    return contents


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(
            f"{archive} is no whole zip archive ({first_few([error])}): the download was cut short or damaged; "
            "compare its size with Kaggle's and download it again"
        ) from error
