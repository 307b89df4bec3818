"""Probabilities for test slices without predictions, because preprocessing rejected their files."""

from collections import Counter

import numpy as np
import pandas as pd

from src.ensemble.bag import Member
from src.errors import UserError, first_few
from src.files.layout import Layout
from src.files.rejected import read_rejected
from src.files.tables import read_table
from src.labels import LABELS

FROM_NEIGHBOURS = "mean of its series' neighbours"
FROM_PREVALENCE = "train prevalence"


def fill_rejected(
    bagged: Member, rejected: pd.Index, table: pd.DataFrame, prevalence: np.ndarray
) -> tuple[Member, Counter[str]]:
    """Add the rejected slices: (all slices, counts by source of the filled ones).

    A bleed spans adjacent slices, so a rejected slice gets the mean of the nearest predicted slices above and below it
    in its series, or the only one of them at an end of the series. If there are none, or if its header gave no series,
    it gets the prevalence in the training set.

    table: `ID`, `SeriesInstanceUID`, `z_index` (-1 if the header was unreadable); prevalence: (6,).
    """
    row_of = {slice_id: i for i, slice_id in enumerate(bagged.ids)}
    in_series = table[table["z_index"] >= 0]
    series_of = dict(zip(in_series["ID"], in_series["SeriesInstanceUID"], strict=True))
    affected = in_series[in_series["SeriesInstanceUID"].isin({series_of.get(each) for each in rejected})]
    order = {uid: part.sort_values("z_index")["ID"].tolist() for uid, part in affected.groupby("SeriesInstanceUID")}

    filled, counts = [], Counter[str]()
    for slice_id in rejected:
        series = order.get(series_of.get(slice_id, ""), [])
        at = series.index(slice_id) if slice_id in series else 0
        below = next((row_of[each] for each in reversed(series[:at]) if each in row_of), None)
        above = next((row_of[each] for each in series[at + 1 :] if each in row_of), None)
        neighbours = [each for each in (below, above) if each is not None]
        filled.append(bagged.probabilities[neighbours].mean(axis=0) if neighbours else prevalence)
        counts[FROM_NEIGHBOURS if neighbours else FROM_PREVALENCE] += 1
    if not filled:
        return bagged, counts
    probabilities = np.concatenate([bagged.probabilities, np.stack(filled)])
    return Member(bagged.name, bagged.ids.append(rejected), probabilities), counts


def fill_from_store(bagged: Member, wanted: pd.Index, layout: Layout) -> tuple[Member, Counter[str]]:
    """Fill only those wanted slices that preprocessing rejected. See `fill_rejected`."""
    rejected = read_rejected(layout.store("test"))["ID"]
    due = pd.Index(rejected[rejected.isin(wanted) & ~rejected.isin(bagged.ids)])
    positions = read_table(layout.table("test"), ("ID", "SeriesInstanceUID", "z_index"), step="preprocess")
    foreign = due.difference(pd.Index(positions["ID"]))
    if len(foreign):
        raise UserError(
            f"{layout.table('test')} lacks {len(foreign)} rejected slices, {first_few(foreign)}: it is of another "
            "input than the image store",
            step="preprocess",
        )
    train = read_table(layout.table("train"), LABELS, step="preprocess")
    return fill_rejected(bagged, due, positions, train[list(LABELS)].to_numpy().mean(axis=0))
