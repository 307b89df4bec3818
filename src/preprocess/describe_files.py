"""Describe files of any kind: headers alone, in parallel, every object once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.dicom.description import Description, describe, path_of
from src.dicom.file import UnreadableDicom
from src.dicom.series import PassedOver
from src.dicom.sources import Source, find_files, source_path
from src.preprocess.engine import run_tasks
from src.progress import Watch, unwatched

_BATCH = 32  # files of a task: their headers take some milliseconds


@dataclass(frozen=True)
class Described:
    """What some files say of themselves, each object once; and files that say nothing, or the same again, with why."""

    objects: Sequence[Description]
    passed_over: Sequence[PassedOver]
    n_files: int


def describe_files(paths: Sequence[Path], *, watch: Watch = unwatched, **engine: Any) -> Described:
    """Describe what lies below some paths: DICOM files, folders at any depth, zip archives.

    watch: is told of files. engine: as for `run_tasks`. Raises UserError for a path that does not exist; whatever is
    wrong with a file below them is in `passed_over`.
    """
    sources, closed = find_files(paths)
    passed_over = [PassedOver(path, "damaged_archive", why) for path, why in closed]
    described: list[Description] = []
    done = 0
    tasks = ((sources[at : at + _BATCH],) for at in range(0, len(sources), _BATCH))
    for found, missed in run_tasks(
        _describe_all, tasks, desc="headers", total=len(sources), unit="file", size=_files_of, **engine
    ):
        described += found
        passed_over += missed
        done += _files_of((found, missed))
        watch(done, len(sources))
    objects, duplicates = _without_duplicates(described)
    return Described(objects, [*passed_over, *duplicates], len(sources))


def _describe_all(sources: Sequence[Source]) -> tuple[list[Description], list[PassedOver]]:
    found: list[Description] = []
    missed = []
    for source in sources:
        try:
            found += describe(source)
        except UnreadableDicom as error:
            missed.append(PassedOver(Path(source_path(source)), error.reason, str(error)))
    return found, missed


def _files_of(result: tuple[list[Description], list[PassedOver]]) -> int:
    found, missed = result
    return len({each.source for each in found}) + len(missed)


def _without_duplicates(objects: Iterable[Description]) -> tuple[list[Description], list[PassedOver]]:
    first: dict[str, Description] = {}
    duplicates = []
    for each in objects:
        if first.setdefault(each.id, each) is not each:
            why = f"the same SOPInstanceUID as {path_of(first[each.id].source)}"
            duplicates.append(PassedOver(path_of(each.source), "duplicate", why))
    return list(first.values()), duplicates
