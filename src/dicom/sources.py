"""Sources of slices, files of their own or members of an archive, and the table columns that hold them."""

import os
import platform
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from src.dicom.archive import ArchiveMember, find_members, list_members
from src.errors import UserError

Source: TypeAlias = str | ArchiveMember  # the path of a file, or a member; small enough to send to workers

_MEMBER_COLUMNS = ("member_offset", "member_packed_size", "member_size", "member_crc32", "member_method")
SOURCE_COLUMNS = ("path", "archive", *_MEMBER_COLUMNS)  # the path of a member is its archive's path, then its name


def find_slices(images: Path, slice_ids: list[str]) -> list[Source]:
    """Find the source of each slice, `<ID>.dcm` in a folder or at any depth of a zip archive, in the order of the IDs.

    Whether files exist is not checked: a missing file is noticed when it is read, and a file that an archive lacks is
    given a path that does not exist. Raises UserError if `images` is neither a folder nor a file, or is a damaged
    archive.
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


def find_files(paths: Iterable[Path]) -> tuple[list[Source], list[tuple[Path, str]]]:
    """All files of some paths: files, folders at any depth, zip archives: (sources, what could not be opened and why).

    Archives are looked into wherever they lie. Each file comes once, in the order of the paths, then of names. Raises
    UserError for a path that does not exist.
    """
    sources: dict[Source, None] = {}
    closed = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is missing; expected a DICOM file, or a folder or zip of them")
        for file in _below(path.resolve()):
            if not _is_archive(file):
                sources[str(file)] = None
                continue
            try:
                members, unusual = list_members(file)
            except UserError as error:
                closed.append((file, str(error)))
                continue
            for member in sorted(members, key=lambda member: member.name):
                sources[member] = None
            closed += [(file / name, "encrypted, or packed in an unusual way") for name in unusual]
    return list(sources), closed


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):  # which does not follow links to folders, so that none leads back
        folders.sort()
        for name in sorted(names):
            yield Path(folder) / name


def _is_archive(path: Path) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a pipe would wait
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(4) == b"PK\3\4"
    except OSError:  # told where it is read
        return False


def source_columns(sources: list[Source]) -> dict[str, list[str] | list[int]]:
    """Make the SOURCE_COLUMNS of a table, with one row per source."""
    members = [source if isinstance(source, ArchiveMember) else None for source in sources]
    numbers = [member[2:] if member else (0,) * len(_MEMBER_COLUMNS) for member in members]
    return {
        "path": [source_path(source) for source in sources],
        "archive": [member.archive if member else "" for member in members],
        **{name: [row[i] for row in numbers] for i, name in enumerate(_MEMBER_COLUMNS)},
    }


def sources_of(table: pd.DataFrame) -> list[Source]:
    """Read the sources from the SOURCE_COLUMNS of a table, one per row."""
    rows = zip(*(table[name].tolist() for name in SOURCE_COLUMNS), strict=True)
    return [
        ArchiveMember(archive, path[len(archive) + 1 :], *numbers) if archive else path
        for path, archive, *numbers in rows
    ]


def source_path(source: Source) -> str:
    """The path of a source; for a member, its archive's path and then its name."""
    return f"{source.archive}/{source.name}" if isinstance(source, ArchiveMember) else source


def state_of(source: Source) -> tuple[int, int]:
    """(size in bytes, time of the last change in ns) of a slice's file; (-1, 0) if it is missing.

    The time is the later of st_mtime and st_ctime, because tools that copy or unpack give a new file an old st_mtime.
    It is 0 for a member of an archive, which is identified by its CRC instead.
    """
    if isinstance(source, ArchiveMember):
        return source.size, 0
    try:
        found = Path(source).stat()
    except OSError:
        return -1, 0
    return found.st_size, max(found.st_mtime_ns, found.st_ctime_ns)


def require_folder(sources: list[Source]) -> None:
    """Raise UserError if the folder of the slices does not exist on this machine.

    A disk that is not mounted must not pass for missing slices. Only the folder of the first file is looked up; members
    of an archive are not.
    """
    folder = next((Path(source).parent for source in sources if not isinstance(source, ArchiveMember)), None)
    if folder is not None and not folder.exists():  # for a file that an archive lacks, this is the archive
        raise UserError(f"{folder} cannot be seen on {platform.node()}; is its disk mounted there?")


def locations_of(table: pd.DataFrame) -> list[Path]:
    """The archives of a table's slices, and the folders of a sample of its files."""
    archives = [Path(archive) for archive in table["archive"].unique() if archive]
    files = table.loc[table["archive"] == "", "path"]
    folders = {Path(path).parent for path in files.iloc[:: max(1, len(files) // 100)]}
    return [*archives, *sorted(folders)]
