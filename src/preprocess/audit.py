"""Check the preprocessed data for leaks and quality, print the findings and keep them in cache/audit.json.

A patient, a study or an image in two folds is a leak and fails the run. Patients, studies and images that are in both
the training and the test set, contradictory labels and series with gaps are only reported: they are properties of the
data, which readers of the results should know.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.dicom import REASONS
from src.errors import UserError, first_few, run_command
from src.files.atomic import replacing
from src.files.layout import Layout
from src.files.rejected import read_rejected
from src.files.tables import read_table
from src.labels import LABELS, SUBTYPES
from src.preprocess.dicom_to_dataframe import SET_APART
from src.preprocess.make_folds import MIN_BRAIN_FRACTION

# A gap is more than this many times the series' median distance between adjacent slices: a slice is missing there, or
# the gantry moved on.
GAP = 1.5
SAME_POSITION_MM = 0.001  # slices of a series that are closer than this have the same position

_TAGS = ("ID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "z", "reason")
_GEOMETRY = {"position": "position_x", "orientation": "row_cosine_x", "pixel spacing": "row_spacing"}


@dataclass(frozen=True)
class AuditedSplit:
    """A preprocessed training or test set.

    slices: a row per stored slice, with `pixel_hash` and `brain_share`, and for training also the labels and `fold`.
    """

    slices: pd.DataFrame
    rejected: pd.DataFrame

    def images(self) -> pd.DataFrame:
        """The slices that show enough brain that equal pixels mean the same head."""
        return self.slices[self.slices["brain_share"] >= MIN_BRAIN_FRACTION]


def audit(train: AuditedSplit, test: AuditedSplit) -> dict[str, Any]:
    """All findings of the audit as numbers and a few example IDs, ready for JSON."""
    splits = {"train": train, "test": test}
    return {
        "between_folds": {
            "patients": _in_several(train.slices, "PatientID", "fold"),
            "studies": _in_several(train.slices, "StudyInstanceUID", "fold"),
            "images": _in_several(train.images(), "pixel_hash", "fold"),
        },
        "between_train_and_test": {
            "patients": _shared(train.slices, test.slices, "PatientID"),
            "studies": _shared(train.slices, test.slices, "StudyInstanceUID"),
            "images": _shared(train.images(), test.images(), "pixel_hash"),
        },
        "labels": label_conflicts(train),
        "series": {name: series_positions(split.slices) for name, split in splits.items()},
        "slices_without": {name: absent_geometry(split.slices) for name, split in splits.items()},
        "prevalence": prevalence(train.slices),
        "rejected": {name: dict(Counter(split.rejected["reason"])) for name, split in splits.items()},
    }


def leaks(found: dict[str, Any]) -> str:
    """Describe what an audit found in several folds; empty if there is nothing."""
    return "; ".join(
        f"{shared['count']} {what} ({first_few(shared['examples'])})"
        for what, shared in found["between_folds"].items()
        if shared["count"]
    )


def label_conflicts(train: AuditedSplit) -> dict[str, int]:
    """Count identical images with different labels, and slices whose `any` contradicts the subtypes."""
    images = train.images()
    repeated = images[images["pixel_hash"].duplicated(keep=False)]
    kinds = repeated.groupby("pixel_hash")[list(LABELS)].nunique()
    some = train.slices[list(SUBTYPES)].any(axis=1)
    bleeds = train.slices["any"] == 1
    return {
        "identical_images": len(kinds),
        "identical_images_with_other_labels": int((kinds > 1).any(axis=1).sum()),
        "any_without_subtype": int((bleeds & ~some).sum()),
        "subtype_without_any": int((some & ~bleeds).sum()),
    }


def series_positions(slices: pd.DataFrame) -> dict[str, int]:
    """Count series, and those with missing positions, duplicate positions, gaps or slices of several patients.

    Series that were set apart, because their slices are not parallel to the others of their UID, are counted too.
    """
    ordered = slices.sort_values(["SeriesInstanceUID", "z"])
    series = ordered.groupby("SeriesInstanceUID")
    gap = series["z"].diff()
    usual = gap.groupby(ordered["SeriesInstanceUID"]).transform("median")
    return {
        "series": int(series.ngroups),
        "with_missing_positions": int(ordered.loc[ordered["z"].isna(), "SeriesInstanceUID"].nunique()),
        "with_duplicate_positions": int(ordered.loc[gap < SAME_POSITION_MM, "SeriesInstanceUID"].nunique()),
        "with_gaps": int(ordered.loc[gap > GAP * usual, "SeriesInstanceUID"].nunique()),
        "of_several_patients": int((series["PatientID"].nunique() > 1).sum()),
        "set_apart": sum(SET_APART in uid for uid in series.groups),
    }


def absent_geometry(slices: pd.DataFrame) -> dict[str, int]:
    """Count slices whose position, orientation or pixel spacing is absent, or malformed and so taken as absent."""
    return {name: int(slices[column].isna().sum()) for name, column in _GEOMETRY.items()}


def prevalence(slices: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The number of slices and of patients, and the fraction of slices with each label, by fold and overall."""
    fractions = slices.groupby("fold")[list(LABELS)].mean()
    counts = slices.groupby("fold").agg(slices=("ID", "size"), patients=("PatientID", "nunique"))
    table = counts.join(fractions)
    table.loc["all"] = [len(slices), slices["PatientID"].nunique(), *slices[list(LABELS)].mean()]
    return {str(fold): row.to_dict() for fold, row in table.iterrows()}


def report(found: dict[str, Any]) -> str:
    """Format an audit for reading: a few lines and a table."""
    between, shared, labels = found["between_folds"], found["between_train_and_test"], found["labels"]
    lines = [
        f"in several folds: {_counts(between)}",
        f"in training and test set: {_counts(shared)}",
        f"labels: {labels['identical_images_with_other_labels']} of {labels['identical_images']} groups of identical "
        f"images disagree, {labels['any_without_subtype']} slices with any and no subtype, "
        f"{labels['subtype_without_any']} with a subtype and not any",
    ]
    for split, series in found["series"].items():
        rejects = ", ".join(f"{count} {reason}" for reason, count in sorted(found["rejected"][split].items()))
        lines.append(
            f"{split}: {series['series']} series, {series['with_missing_positions']} with missing positions, "
            f"{series['with_duplicate_positions']} with duplicate positions, {series['with_gaps']} with gaps, "
            f"{series['of_several_patients']} of several patients, {series['set_apart']} set apart as not parallel to "
            f"the rest; slices without {_counted(found['slices_without'][split])}; rejected slices: {rejects or 'none'}"
        )
    table = pd.DataFrame(found["prevalence"]).T.astype({"slices": int, "patients": int})
    table[list(LABELS)] *= 100
    return "\n".join([*lines, "prevalence in %, by fold", table.to_string(float_format="{:.2f}".format)])


def read_audited_split(layout: Layout, name: str) -> AuditedSplit:
    """Read the preprocessed "train" or "test" set. Raises UserError if any part of it is missing."""
    labels = LABELS if name == "train" else ()
    columns = [*_TAGS, *_GEOMETRY.values(), *labels]
    table = read_table(layout.table(name), columns, step="preprocess")[columns]
    index = read_table(layout.store(name) / "index.parquet", ("ID", "pixel_hash", "brain_share"), step="preprocess")
    unknown = index.loc[~index["ID"].isin(table["ID"]), "ID"]
    if len(unknown):
        raise UserError(
            f"{layout.store(name)} has {len(unknown)} slices that {layout.table(name)} lacks, {first_few(unknown)}: "
            "they are of different inputs",
            step="preprocess",
        )
    slices = table.merge(index[["ID", "pixel_hash", "brain_share"]], on="ID", validate="one_to_one")
    if name == "train":
        folds = read_table(layout.folds, ("ID", "fold"), step="preprocess")
        slices = slices.merge(folds[["ID", "fold"]], on="ID", how="left", validate="one_to_one")
        if slices["fold"].isna().any():
            lacking = slices.loc[slices["fold"].isna(), "ID"]
            raise UserError(
                f"{layout.folds} lacks {len(lacking)} stored slices, {first_few(lacking)}", step="preprocess"
            )
    return AuditedSplit(slices, read_rejected(layout.store(name), REASONS))


def _in_several(slices: pd.DataFrame, what: str, where: str) -> dict[str, Any]:
    """Values of a column that occur with several values of another. Empty values mean unknown and are left out."""
    known = slices[slices[what] != ""]
    several = known.groupby(what)[where].nunique()
    return _named(several.index[several > 1])


def _shared(one: pd.DataFrame, other: pd.DataFrame, what: str) -> dict[str, Any]:
    return _named(pd.Index(one[what].unique()).intersection(other[what].unique()).drop("", errors="ignore"))


def _named(values: pd.Index) -> dict[str, Any]:
    return {"count": len(values), "examples": sorted(values)[:10]}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counts.items())


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{shared['count']} {what}" for what, shared in found.items())


def main() -> None:
    """Read the arguments, audit, save and print the findings; fail if there is a leak."""
    parser = Parser(
        prog="python -m src.preprocess.audit",
        description=__doc__,
        epilog="example: python -m src.preprocess.audit --root /data/ich",
    )
    parser.add_root()
    args = parser.parse_args()
    layout = Layout(args.root)
    found = audit(read_audited_split(layout, "train"), read_audited_split(layout, "test"))
    with replacing(layout.audit) as temporary:
        temporary.write_text(json.dumps(found, indent=2, default=_plain) + "\n", encoding="utf-8")
    print(f"{layout.audit}:\n{report(found)}")
    if leaking := leaks(found):
        raise UserError(f"in several folds: {leaking}; delete {layout.folds}", step="preprocess")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} in an audit")


if __name__ == "__main__":
    run_command(main)
