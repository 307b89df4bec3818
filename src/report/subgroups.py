"""Loss and AUC of groups of slices, as far as the headers of the training data tell them apart."""

from itertools import pairwise

import numpy as np
import pandas as pd

from src.evaluate.intervals import LOG, PatientRatios, interval, jackknife
from src.evaluate.score import auc_by_label, log_losses
from src.labels import WEIGHTS
from src.report.blocks import Column, Table
from src.report.sources import Scored, Sources

_GAPS = (1.5, 3.5, 5.5)  # mm, ends of groups
_TILTED = 1.0  # degrees


def grouped(scored: Scored, groups: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Weighted log loss, and AUC of any, of groups of slices: groups (N,) from 0, -1 for none."""
    losses = np.average(log_losses(scored.truth.targets, scored.probabilities), axis=1, weights=WEIGHTS)
    patients = np.unique(scored.truth.patients, return_inverse=True)[1]
    members = groups[:, None] == np.arange(len(names))
    mean = PatientRatios(members * losses[:, None], members, patients)
    n_patients = int(patients.max()) + 1
    value, left_out = mean(np.ones(n_patients, dtype=np.int64)), jackknife(mean, n_patients)
    in_group = np.array([len(np.unique(patients[each])) for each in members.T])
    low, high = interval(value, left_out, LOG, np.maximum(in_group, 1))
    targets, probabilities = scored.truth.targets, scored.probabilities
    return pd.DataFrame(
        {
            "group": names,
            "slices": members.sum(axis=0),
            "patients": in_group,
            "positives": [int(targets[each, 0].sum()) for each in members.T],
            "log_loss": value,
            "log_loss_low": low,
            "log_loss_high": high,
            "auc_any": [_auc(targets[each], probabilities[each]) for each in members.T],
        }
    )


def _auc(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The AUC of any hemorrhage: (N, 6) twice; NaN without cases."""
    return float(auc_by_label(targets, probabilities)[0]) if len(targets) else np.nan


GROUP_COLUMNS = [
    Column("Group", "group"),
    Column("slices", "slices"),
    Column("patients", "patients"),
    Column("with any hemorrhage", "positives"),
    Column("weighted log loss", "log_loss", 4, interval=True),
    Column("AUC, any hemorrhage", "auc_any", 3),
]


def by_distance(sources: Sources, scored: Scored) -> Table:
    """The loss by the distance of adjacent slices, which stands for their thickness."""
    gap = _of_series(sources, scored)["gap_mm"].to_numpy()
    names = [f"to {_GAPS[0]:g} mm", *(f"{a:g} to {b:g} mm" for a, b in pairwise(_GAPS)), f"above {_GAPS[-1]:g} mm"]
    frame = grouped(scored, np.where(np.isnan(gap), -1, np.digitize(gap, _GAPS, right=True)), names)
    frame = frame[frame["slices"] > 0].reset_index(drop=True)
    note = (
        "The median distance of adjacent slices of a series stands for slice thickness, which the competition's "
        "headers do not hold."
    )
    return Table("loss_by_distance", "Loss by the distance of slices", frame, GROUP_COLUMNS, note)


def subgroups(sources: Sources, scored: Scored) -> Table:
    """The loss by what else headers say of a slice or its series."""
    headers = sources.headers("train")
    assert headers is not None  # noqa: S101 - without it nothing is scored
    slices = headers.set_index("ID").loc[scored.truth.ids]
    tilt = np.abs(_of_series(sources, scored)["tilt_degrees"].to_numpy())
    other_size = (slices["rows"].to_numpy() != 512) | (slices["columns"].to_numpy() != 512)
    parts = {
        "gantry tilt": (
            np.where(np.isnan(tilt), -1, tilt > _TILTED),
            [f"to {_TILTED:g} degree", f"above {_TILTED:g} degree"],
        ),
        "matrix": (other_size, ["512 x 512", "other"]),
    }
    if "pixel_representation" in slices:
        parts["stored values"] = (slices["pixel_representation"].to_numpy() != 1, ["signed", "unsigned"])
    frame = pd.concat(
        [grouped(scored, groups.astype(np.int64), names).assign(by=by) for by, (groups, names) in parts.items()],
        ignore_index=True,
    )
    frame = frame[frame["slices"] > 0].reset_index(drop=True)
    note = (
        "Headers of the competition hold no age, sex, scanner or site; these are what they hold. Differences are not "
        "tested."
    )
    return Table("subgroups", "Subgroups that headers allow", frame, [Column("By", "by"), *GROUP_COLUMNS], note)


def _of_series(sources: Sources, scored: Scored) -> pd.DataFrame:
    """What is known of the series of each scored slice: (N,) rows."""
    headers = sources.headers("train")
    assert headers is not None  # noqa: S101 - without it nothing is scored
    of = headers.set_index("ID").loc[scored.truth.ids, "SeriesInstanceUID"]
    series = sources.series
    return series[series["split"] == "train"].set_index("SeriesInstanceUID").reindex(of)
