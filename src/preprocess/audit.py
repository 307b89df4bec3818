"""Leaks and data quality of what preprocessing made, printed and kept in cache/audit.json.

A patient, a study or an image in two folds is a leak, and fails the run. What training and test set share, labels that
contradict each other and series with gaps are reported: they are the data's, and a reader of results should know them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.errors import UserError, first_few, run_command
from src.files.atomic import replacing
from src.files.layout import Layout
from src.files.tables import read_csv, read_table
from src.labels import LABELS, SUBTYPES
from src.preprocess.make_folds import MIN_BRAIN_SHARE

GAP = 1.5  # times the series' median distance between neighbours: a slice is missing there, or the gantry moved on
SAME_POSITION_MM = 0.001  # slices of a series that lie closer than this lie on each other

_TAGS = ("ID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "z", "reason")


@dataclass(frozen=True)
class Split:
    """What preprocessing made of a training or test set.

    slices: a row per stored slice, with `pixel_hash` and `brain_share`; the labels and `fold` are there for training.
    """

    slices: pd.DataFrame
    rejected: pd.DataFrame

    def images(self) -> pd.DataFrame:
        """The slices that show enough brain for equal pixels to mean the same head."""
        return self.slices[self.slices["brain_share"] >= MIN_BRAIN_SHARE]


def audit(train: Split, test: Split) -> dict[str, Any]:
    """Everything that the audit finds, as numbers and a few names, ready for JSON."""
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
        "prevalence": prevalence(train.slices),
        "rejected": {name: dict(Counter(split.rejected["reason"])) for name, split in splits.items()},
    }


def leaks(found: dict[str, Any]) -> str:
    """What an audit found in several folds, as words; empty where there is nothing."""
    return "; ".join(
        f"{shared['count']} {what} ({first_few(shared['examples'])})"
        for what, shared in found["between_folds"].items()
        if shared["count"]
    )


def label_conflicts(train: Split) -> dict[str, int]:
    """Identical images with different labels, and slices whose `any` contradicts the subtypes."""
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
    """Series, and those whose slices have no position, lie on each other, leave gaps or are of several patients."""
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
    }


def prevalence(slices: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Number of slices, patients and the share of each label, fold by fold and in all."""
    shares = slices.groupby("fold")[list(LABELS)].mean()
    counts = slices.groupby("fold").agg(slices=("ID", "size"), patients=("PatientID", "nunique"))
    table = counts.join(shares)
    table.loc["all"] = [len(slices), slices["PatientID"].nunique(), *slices[list(LABELS)].mean()]
    return {str(fold): row.to_dict() for fold, row in table.iterrows()}


def report(found: dict[str, Any]) -> str:
    """An audit for people: a few lines and a table."""
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
            f"{series['of_several_patients']} of several patients; rejected slices: {rejects or 'none'}"
        )
    table = pd.DataFrame(found["prevalence"]).T.astype({"slices": int, "patients": int})
    table[list(LABELS)] *= 100
    return "\n".join([*lines, "prevalence in %, by fold", table.to_string(float_format="{:.2f}".format)])


def read_split(layout: Layout, name: str) -> Split:
    """Read what preprocessing made of "train" or "test". Raises UserError where something of it is missing."""
    labels = LABELS if name == "train" else ()
    table = read_table(layout.table(name), (*_TAGS, *labels), made_by="bin/preprocess.sh")[[*_TAGS, *labels]]
    index = read_table(
        layout.store(name) / "index.parquet", ("ID", "pixel_hash", "brain_share"), made_by="bin/preprocess.sh"
    )
    slices = table.merge(index[["ID", "pixel_hash", "brain_share"]], on="ID", validate="one_to_one")
    if name == "train":
        folds = read_table(layout.folds, ("ID", "fold"), made_by="bin/preprocess.sh")
        slices = slices.merge(folds[["ID", "fold"]], on="ID", how="left", validate="one_to_one")
        if slices["fold"].isna().any():
            lacking = slices.loc[slices["fold"].isna(), "ID"]
            raise UserError(
                f"{layout.folds} lacks {len(lacking)} stored slices, {first_few(lacking)}; run bin/preprocess.sh again"
            )
    return Split(slices, read_csv(layout.store(name) / "rejected.csv", ("ID", "reason"), dtype={"ID": "str"}))


def _in_several(slices: pd.DataFrame, what: str, where: str) -> dict[str, Any]:
    """Values of a column that come with several values of another. An empty value says nothing."""
    known = slices[slices[what] != ""]
    several = known.groupby(what)[where].nunique()
    return _named(several.index[several > 1])


def _shared(one: pd.DataFrame, other: pd.DataFrame, what: str) -> dict[str, Any]:
    return _named(pd.Index(one[what].unique()).intersection(other[what].unique()).drop("", errors="ignore"))


def _named(values: pd.Index) -> dict[str, Any]:
    return {"count": len(values), "examples": sorted(values)[:10]}


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(f"{shared['count']} {what}" for what, shared in found.items())


def main() -> None:
    """Read arguments, audit, keep, report; fail for a leak."""
    parser = Parser(
        prog="python -m src.preprocess.audit",
        description=__doc__,
        epilog="example: python -m src.preprocess.audit --root /data/ich",
    )
    parser.add_argument("--root", type=Path, default=Path(), help="folder that holds cache/ (default: this one)")
    args = parser.parse_args()
    layout = Layout(args.root)
    found = audit(read_split(layout, "train"), read_split(layout, "test"))
    with replacing(layout.audit) as temporary:
        temporary.write_text(json.dumps(found, indent=2, default=_plain) + "\n", encoding="utf-8")
    print(f"{layout.audit}:\n{report(found)}")
    if leaking := leaks(found):
        raise UserError(f"in several folds: {leaking}; delete {layout.folds} and run bin/preprocess.sh again")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} in an audit")


if __name__ == "__main__":
    run_command(main)
