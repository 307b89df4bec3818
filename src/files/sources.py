"""Where a slice's bytes are, a file by itself or a member of an archive, and how a table says so."""

import platform
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from src.errors import UserError
from src.files.archive import Member, find_members

Source: TypeAlias = str | Member  # what travels to workers: the path of a file, or a member

_MEMBER_COLUMNS = ("member_offset", "member_packed_size", "member_size", "member_crc32", "member_method")
SOURCE_COLUMNS = ("path", "archive", *_MEMBER_COLUMNS)  # path also names a member: the archive's, then its own


def find_slices(images: Path, slice_ids: list[str]) -> list[Source]:
    """Where each slice's `<ID>.dcm` is, or should be, in a folder or a zip archive.

    Raises UserError where `images` is neither, or is a damaged archive. Files are not looked for one by one: a missing
    one shows when it is read.
    """
    images = images.resolve()
    names = [f"{slice_id}.dcm" for slice_id in slice_ids]
    if images.is_dir():
        return [f"{images}/{name}" for name in names]
    if not images.is_file():
        raise UserError(
            f"{images} is missing; expected the folder of the slices, as ID_....dcm files, or the zip that holds them"
        )
    members = find_members(images, names)
    return [member or f"{images}/{name}" for member, name in zip(members, names, strict=True)]


def source_columns(sources: list[Source]) -> dict[str, list[str] | list[int]]:
    """SOURCE_COLUMNS of a table, a row per source."""
    members = [source if isinstance(source, Member) else None for source in sources]
    numbers = [member[2:] if member else (0,) * len(_MEMBER_COLUMNS) for member in members]
    return {
        "path": [source_path(source) for source in sources],
        "archive": [member.archive if member else "" for member in members],
        **{name: [row[i] for row in numbers] for i, name in enumerate(_MEMBER_COLUMNS)},
    }


def sources_of(table: pd.DataFrame) -> list[Source]:
    """The sources that SOURCE_COLUMNS of a table stand for, row by row."""
    rows = zip(*(table[name].tolist() for name in SOURCE_COLUMNS), strict=True)
    return [
        Member(archive, path[len(archive) + 1 :], *numbers) if archive else path for path, archive, *numbers in rows
    ]


def source_path(source: Source) -> str:
    """A source's path for people: of a member, the archive's and then its own."""
    return f"{source.archive}/{source.name}" if isinstance(source, Member) else source


def state_of(source: Source) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns) of a slice's file; (-1, 0) where it is missing.

    The time is that of its contents or of its entry in the folder, whichever is later: copying and unpacking tools give
    a new file an old time. A member's is 0: it has a CRC, which says more.
    """
    if isinstance(source, Member):
        return source.size, 0
    try:
        found = Path(source).stat()
    except OSError:
        return -1, 0
    return found.st_size, max(found.st_mtime_ns, found.st_ctime_ns)


def require_folder(sources: list[Source]) -> None:
    """Raise UserError where the folder of some slices cannot be seen, on this machine: no slice's fault."""
    folder = next((Path(source).parent for source in sources if not isinstance(source, Member)), None)
    if folder is not None and not folder.exists():  # of a missing member it is the archive
        raise UserError(f"{folder} cannot be seen on {platform.node()}; is its disk mounted there?")


def places_of(table: pd.DataFrame) -> list[Path]:
    """The folders and archives that a table's slices are in, a few of them."""
    archives = [Path(archive) for archive in table["archive"].unique() if archive]
    files = table.loc[table["archive"] == "", "path"]
    folders = {Path(path).parent for path in files.iloc[:: max(1, len(files) // 100)]}
    return [*archives, *sorted(folders)]
