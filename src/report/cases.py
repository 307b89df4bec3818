"""The worst slices of each label, as series to scroll through: with adjacent slices and class activation maps."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from src.ct.geometry import sides_of
from src.ct.hounsfield import HU_RANGE
from src.detector.slice_maps import Checkpoint, slice_maps
from src.evaluate.score import log_losses
from src.files.image_store import ImageStore
from src.labels import LABELS
from src.pages.series import SeriesView
from src.report.blocks import Case
from src.report.names import LABEL_TITLES
from src.report.sources import Scored, Sources

MOST_CASES = 3  # of each label and kind
ADJACENT = 2  # slices on each side
KINDS = {"false negative": 1, "false positive": 0}  # by the target
CASE_COLUMNS = (
    "label",
    "title",
    "kind",
    "kind_title",
    "ID",
    "PatientID",
    "SeriesInstanceUID",
    "fold",
    "z",
    "probability",
    "log_loss",
    "labels",
)
_ORIENTATION = [f"{side}_cosine_{axis}" for side in ("row", "column") for axis in "xyz"]
_HAVE_MAPS = (
    "Class activation maps (Zhou 2016) are of the classifiers of the fold that did not see the patient. They show, "
    "coarsely, where these see a label; they explain neither the second stage nor the recipe, and outline no bleed."
)
_STORED = f"HU are kept from {HU_RANGE[0]} to {HU_RANGE[1]}: of bone and air these slices show no more."
_NO_MAPS = "There are no class activation maps: the checkpoints are not there, or these networks have none."


def worst_cases(scored: Scored, headers: pd.DataFrame, thresholds: Mapping[str, float | None]) -> pd.DataFrame:
    """The false negatives with the lowest and the false positives with the highest probability, one of a series.

    headers: the table of training slices. thresholds: of slices, by label; a label without one has no errors. Returns
    CASE_COLUMNS.
    """
    truth = scored.truth
    tags = headers.set_index("ID").loc[truth.ids, ["PatientID", "SeriesInstanceUID", "z"]]
    losses = log_losses(truth.targets, scored.probabilities)
    series = pd.factorize(tags["SeriesInstanceUID"])[0]
    rows = []
    for j, label in enumerate(LABELS):
        for kind, target in KINDS.items():
            threshold = thresholds[label]
            called = scored.probabilities[:, j] >= (np.nan if threshold is None else threshold)
            wrong = (truth.targets[:, j] == target) & (called != target) & (threshold is not None)
            there = np.flatnonzero(wrong)
            ordered = there[np.argsort(-losses[there, j], kind="stable")]
            first = np.sort(np.unique(series[ordered], return_index=True)[1])[:MOST_CASES]
            for i in ordered[first]:
                has = [
                    LABEL_TITLES[each].lower() for each, target in zip(LABELS, truth.targets[i], strict=True) if target
                ]
                values = (
                    label,
                    LABEL_TITLES[label],
                    kind,
                    kind,
                    truth.ids[i],
                    *tags.iloc[i, :2],
                    truth.folds[i],
                    tags.iloc[i, 2],
                    scored.probabilities[i, j],
                    losses[i, j],
                    ", ".join(has) or "none",
                )
                rows.append(dict(zip(CASE_COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=list(CASE_COLUMNS))


def case_views(cases: pd.DataFrame, sources: Sources, scored: Scored) -> tuple[list[Case], str]:
    """A viewer's content for each of `worst_cases`, and a sentence about the maps."""
    headers = sources.headers("train")
    assert headers is not None  # noqa: S101 - the cases come from it
    store = ImageStore(sources.layout.store("train"))
    headers = headers[headers["ID"].isin(store.index["ID"])].sort_values(["SeriesInstanceUID", "z", "ID"])
    by_series = {
        str(uid): rows
        for uid, rows in headers[headers["SeriesInstanceUID"].isin(cases["SeriesInstanceUID"])].groupby(
            "SeriesInstanceUID"
        )
    }
    shown = [_around(by_series[row["SeriesInstanceUID"]], row["ID"]) for _, row in cases.iterrows()]
    maps = _maps(cases, shown, sources)
    thresholds = {} if sources.operating is None else sources.operating[0]["study"]["youden"]
    views = []
    for (_, row), (slices, at) in zip(cases.iterrows(), shown, strict=True):
        of_series = len(by_series[row["SeriesInstanceUID"]])
        views.append(_case(row, slices, at, of_series, store, scored, maps, thresholds))
    return views, f"{_STORED} {'' if maps else _NO_MAPS}".strip()


def _around(slices: pd.DataFrame, slice_id: str) -> tuple[pd.DataFrame, int]:
    """A slice of a series and the adjacent ones: (their rows, its place among them)."""
    place = int(np.flatnonzero(slices["ID"] == slice_id)[0])
    first = max(place - ADJACENT, 0)
    return slices.iloc[first : place + ADJACENT + 1], place - first


def _maps(cases: pd.DataFrame, shown: list[tuple[pd.DataFrame, int]], sources: Sources) -> dict[str, np.ndarray]:
    """The maps of each slice, (6, size, size), by the networks that did not see it; empty where there are none."""
    networks: dict[int, list[Checkpoint]] = {}
    for of in sources.networks:
        conf, epoch = (of.conf, of.epoch) if of.classifier is None else (of.classifier, of.classifier_epoch)
        folder = sources.layout.fold(conf, of.fold)
        checkpoint = Checkpoint(folder.conf, folder.checkpoint(int(epoch or 0)))
        if checkpoint.weights.is_file() and checkpoint.conf.is_file():
            of_conf = [each for each in networks.get(of.fold, []) if each.conf != checkpoint.conf]
            networks[of.fold] = [*of_conf, checkpoint]  # of each classifier the last epoch
    found: dict[str, np.ndarray] = {}
    for fold in sorted(cases["fold"].unique()):
        ids = {each for (rows, _), of in zip(shown, cases["fold"], strict=True) if of == fold for each in rows["ID"]}
        maps = slice_maps(networks.get(fold, []), sources.layout, sorted(ids))
        if maps is None:
            return {}
        found |= dict(zip(sorted(ids), maps, strict=True))
    return found


def _case(
    row: pd.Series,
    slices: pd.DataFrame,
    at: int,
    of_series: int,
    store: ImageStore,
    scored: Scored,
    maps: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float | None],
) -> Case:
    ids = slices["ID"].tolist()
    known = scored.truth.ids.get_indexer(ids)
    probabilities = np.where(known[:, None] >= 0, scored.probabilities[known], 0)
    spacing = ["row_spacing", "column_spacing"] if "column_spacing" in slices else ["row_spacing", "row_spacing"]
    oriented = set(_ORIENTATION) <= {*slices.columns}
    facts = [
        ("Patient", row["PatientID"]),
        ("Labels of this slice", row["labels"]),
        (f"Probability of {row['title'].lower()}", f"{row['probability']:.4f}"),
        ("Fold", str(row["fold"])),
    ]
    warnings = (
        [] if (known >= 0).all() else ["Some adjacent slices have no out-of-fold prediction: they are shown as 0."]
    )
    return Case(
        SeriesView(
            title=f"{row['title']}, {row['kind']}: {row['ID']}",
            details=[*facts, ("Shown", f"{len(ids)} of {of_series} slices of the series")],
            warnings=warnings,
            pixels=[store.hounsfield(each) for each in ids],
            spacings=[tuple(each) for each in slices[spacing].to_numpy(dtype=float)],
            z=slices["z"].to_numpy(dtype=float),
            ids=ids,
            probabilities=probabilities,
            study=scored.probabilities[scored.truth.studies == scored.truth.studies[known[at]]].max(axis=0),
            thresholds=thresholds,
            maps=np.stack([maps[each] for each in ids]) if maps else None,
            maps_note=_HAVE_MAPS if maps else _NO_MAPS,
            sides=sides_of(slices[_ORIENTATION].to_numpy(dtype=float)[at]) if oriented else "",
        ),
        row["label"],
        row["kind"],
        [*facts, ("Slice", row["ID"])],
        at,
    )
