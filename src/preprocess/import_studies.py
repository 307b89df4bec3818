"""Lay out DICOM files of one's own as a competition, so that every script works on them.

    stage_2_train.csv, stage_2_train/        or, of a test set, stage_2_sample_submission.csv, stage_2_test/
    imported.csv                             leads back from each ID to its file
    not_imported_train.csv                   what is no CT slice or has no labels, and why

Slices are links to the files where they lie; frames of an Enhanced CT and members of zips are written out.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.dicom.description import Description, path_of
from src.dicom.enhanced import split_frames
from src.dicom.file import MAX_ENHANCED_BYTES, UnreadableDicom, read_bytes, read_file
from src.dicom.series import PassedOver
from src.dicom.sources import Source, source_path
from src.errors import NotEnoughDisk, UserError, advising, first_few, run_command
from src.files.atomic import held_by_one_run, replacing, sweep_partials
from src.files.slice_labels import SliceLabels, find_rows, read_slice_labels
from src.files.tables import read_csv
from src.labels import LABELS, row_ids
from src.preprocess.describe_files import describe_files
from src.preprocess.engine import add_engine_arguments, engine_arguments, run_tasks

TABLE = "imported.csv"
COLUMNS = ("ID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "path", "frame", "split")
CSVS = {"train": "stage_2_train.csv", "test": "stage_2_sample_submission.csv"}
HEX_DIGITS = 16

_BATCH = 32  # files of a task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What is laid out: a row for each slice (COLUMNS, and the labels of a training set), and what is not, with why."""

    table: pd.DataFrame
    passed_over: Sequence[PassedOver]


def import_studies(paths: Sequence[Path], labels: SliceLabels | None, output: Path, **engine: Any) -> Imported:
    """Lay out the CT slices below some paths in the folder `output`; those of a test set where there are no labels.

    What is there of an earlier run is kept, or replaced where it is of other slices. engine: as for `run_tasks`. Raises
    UserError where no slice is left, and where `output` holds another competition.
    """
    split = "test" if labels is None else "train"
    inside = [path for path in paths if output.resolve().is_relative_to(path.resolve())]
    if inside:  # links would be found, and linked to themselves
        raise UserError(f"{output} lies in {inside[0]}, which is to be imported; expected a folder elsewhere")
    described = describe_files(paths, **engine)
    slices, others = _slices(described.objects)
    table, unlabelled = _table(slices, labels, split)
    imported = Imported(table, [*described.passed_over, *others, *unlabelled])
    if not len(table):
        reasons = Counter(each.reason for each in imported.passed_over)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise UserError(f"no CT slices to import in {described.n_files} files ({why or 'no files'})")
    of_id = {slice_id_of(each.id): each for each in slices}
    with held_by_one_run(output):
        _lay_out(output, imported, split, [of_id[each] for each in table["ID"]], engine)
    return imported


def slice_id_of(uid: str) -> str:
    """The ID of a slice: `ID_` and 16 hexadecimal digits of the SHA-256 of its SOPInstanceUID (and frame)."""
    return f"ID_{hashlib.sha256(uid.encode()).hexdigest()[:HEX_DIGITS]}"


def _slices(objects: Sequence[Description]) -> tuple[list[Description], list[PassedOver]]:
    """The CT slices among some objects, and the others with the reason. Raises UserError for two of the same ID."""
    found: dict[str, Description] = {}
    others = []
    for each in objects:
        if each.header is None:
            others.append(PassedOver(path_of(each.source), each.reason, each.message))
        elif "LOCALIZER" in each.image_type:
            others.append(PassedOver(path_of(each.source), "localizer", "its ImageType is LOCALIZER"))
        elif (other := found.setdefault(slice_id_of(each.id), each)) is not each:
            raise UserError(f"{each.id} and {other.id} have the same ID, {slice_id_of(each.id)}")
    return list(found.values()), others


def _table(
    slices: Sequence[Description], labels: SliceLabels | None, split: str
) -> tuple[pd.DataFrame, list[PassedOver]]:
    """A row for each slice that goes in, patient by patient, and the slices that lack labels."""
    rows = [
        (
            slice_id_of(each.id), each.sop_instance, each.series, each.study, each.patient, str(path_of(each.source)),
            each.frame, split,
        )
        for each in slices
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    unlabelled = []
    if labels is not None:
        paths = [f"{path_of(each.source)}#{each.frame}" if each.frame else str(path_of(each.source)) for each in slices]
        found = find_rows(labels, [each.id for each in slices], paths)
        if len(found) and (found < 0).all():
            raise UserError(
                f"none of the {len(labels.ids)} labels, of {first_few(labels.ids, 2)}, is the {labels.kind} of one of "
                f"the {len(slices)} slices, {slices[0].id} in {paths[0]} for one"
            )
        missing = len(labels.ids) - len(set(found[found >= 0].tolist()))
        if missing:
            _log.warning("%d of %d labels match no slice", missing, len(labels.ids))
        values = np.where((found >= 0)[:, None], labels.values[found], np.nan)
        known = ~np.isnan(values).any(axis=1)
        for i in np.flatnonzero(~known):
            why = "no labels" if found[i] < 0 else "some of its six labels are empty"
            unlabelled.append(PassedOver(Path(paths[i]), "no_label", why))
        table[list(LABELS)] = np.nan_to_num(values).astype(np.uint8)
        table = table[known]
    order = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "path", "frame"]
    return table.sort_values(order, kind="stable").reset_index(drop=True), unlabelled


# ---- files


def _lay_out(
    output: Path, imported: Imported, split: str, slices: Sequence[Description], engine: dict[str, Any]
) -> None:
    """Write everything, the CSV last: what a killed run leaves is recognised by the table, and completed."""
    earlier = _earlier(output)
    _refuse_others(output, earlier)
    folder, csv = output / f"stage_2_{split}", output / CSVS[split]
    content = _csv_of(imported.table, split)
    if csv.is_file() and csv.read_text(encoding="utf-8") != content:
        csv.unlink()  # until its slices are there
    stale = set(earlier.loc[earlier["split"] == split, "ID"]) - set(imported.table["ID"])
    for slice_id in stale:
        (folder / f"{slice_id}.dcm").unlink(missing_ok=True)
    table = pd.concat([earlier[earlier["split"] != split], imported.table[list(COLUMNS)]], ignore_index=True)
    with replacing(output / TABLE) as temporary:
        table.to_csv(temporary, index=False)
    folder.mkdir(exist_ok=True)
    sweep_partials(folder)
    by_source: dict[Source, list[tuple[int, str]]] = {}
    for each in slices:
        by_source.setdefault(each.source, []).append((each.frame, str(folder / f"{slice_id_of(each.id)}.dcm")))
    tasks = list(by_source.items())
    batches = ((tasks[at : at + _BATCH],) for at in range(0, len(tasks), _BATCH))
    for _ in run_tasks(write_slices, batches, desc="slices", total=len(tasks), unit="file", size=int, **engine):
        pass
    with replacing(output / f"not_imported_{split}.csv") as temporary:
        pd.DataFrame(imported.passed_over, columns=PassedOver._fields).to_csv(temporary, index=False)
    with replacing(csv) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_slices(tasks: Sequence[tuple[Source, Sequence[tuple[int, str]]]]) -> int:
    """Link or write the slices of some files: each with (frame, path to make); the number of files."""
    for source, wanted in tasks:
        if isinstance(source, str) and not wanted[0][0]:
            _link(source, Path(wanted[0][1]))
            continue
        changed = Path(source if isinstance(source, str) else source.archive).stat().st_mtime
        due = {frame: Path(path) for frame, path in wanted if not _is_newer(Path(path), changed)}
        if not due:
            continue
        try:
            for frame, data in _contents(source, set(due)):
                with replacing(due[frame], sweep=False) as temporary:
                    temporary.write_bytes(data)
        except UnreadableDicom as error:
            raise UserError(f"{source_path(source)} cannot be written out: {error}") from error
    return len(tasks)


def _contents(source: Source, frames: set[int]) -> Iterable[tuple[int, bytes]]:
    if frames == {0}:
        return [(0, read_file(source))]
    data = read_bytes(source, None, limit=MAX_ENHANCED_BYTES)[0]
    return ((number, each) for number, each in enumerate(split_frames(data), start=1) if number in frames)


def _is_newer(path: Path, changed: float) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_mtime >= changed


def _link(source: str, path: Path) -> None:
    if path.is_symlink() and os.readlink(path) == source:  # noqa: PTH115 - as text
        return
    path.unlink(missing_ok=True)
    path.symlink_to(source)


def _csv_of(table: pd.DataFrame, split: str) -> str:
    values = table[list(LABELS)].to_numpy().ravel() if split == "train" else 0.5
    text: str = pd.DataFrame({"ID": row_ids(table["ID"])}).assign(Label=values).to_csv(index=False, lineterminator="\n")
    return text


def _earlier(output: Path) -> pd.DataFrame:
    """What earlier runs have laid out there."""
    if not (output / TABLE).exists():
        return pd.DataFrame(columns=list(COLUMNS))
    texts = dict.fromkeys(COLUMNS, "str")
    return read_csv(output / TABLE, COLUMNS, dtype=texts).fillna("")


def _refuse_others(output: Path, earlier: pd.DataFrame) -> None:
    """Raise UserError if the folder holds slices or labels that no earlier run has laid out there."""
    known = {"train": {"stage_2_train", "stage_2_train.csv"}, "test": {"stage_2_test", "stage_2_sample_submission.csv"}}
    own = set().union(*(known[split] for split in set(earlier["split"])))
    others = [path.name for path in sorted(output.iterdir()) if path.name.startswith("stage_")]
    foreign = [name for name in others if name not in own] + [path.name for path in output.glob("*.zip")]
    for split in known:
        folder = output / f"stage_2_{split}"
        if folder.name in own and folder.is_dir():
            ids = set(earlier.loc[earlier["split"] == split, "ID"])
            foreign += [f"{folder.name}/{each.name}" for each in folder.iterdir()
                        if each.stem not in ids and not each.name.startswith(".")]  # fmt: skip
    if foreign:
        raise UserError(f"{output} holds another competition ({first_few(foreign)}); expected a new or empty folder")


def main() -> None:
    """Read the arguments, lay out, report."""
    parser = Parser(
        prog="python -m src.preprocess.import_studies",
        description=__doc__.split("\n")[0],
        epilog="example: python -m src.preprocess.import_studies /data/own --labels own.csv --output own/input",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM files, folders at any depth, zips")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="SOPInstanceUID or file, and six labels, by slice")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder to fill, an input/ of its own"
    )
    parser.add_argument("--test", action="store_true", help="a test set, without labels")
    add_engine_arguments(parser)
    args = parser.parse_args()
    if args.test == (args.labels is not None):
        raise UserError("expected either --labels, for a training set, or --test")
    labels = None if args.test else read_slice_labels(args.labels)
    with advising(NotEnoughDisk, "make room, or give another --output"):
        imported = import_studies(args.paths, labels, args.output, **engine_arguments(args))
    table, reasons = imported.table, Counter(each.reason for each in imported.passed_over)
    print(
        f"{args.output}: {len(table)} slices, {table['SeriesInstanceUID'].nunique()} series, "
        f"{table['PatientID'].nunique()} patients"
    )
    unnamed = int((table["PatientID"] == "").sum())
    if unnamed:
        print(f"{unnamed} slices have no PatientID: folds will keep their studies together instead")
    if reasons:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        print(f"not imported: {counts}; not_imported_{'test' if args.test else 'train'}.csv names them")


if __name__ == "__main__":
    run_command(main)
