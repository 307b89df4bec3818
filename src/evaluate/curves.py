"""Curves with bands over patients: ROC, precision-recall, reliability, and predictive values against prevalence.

A curve is thinned to the places of a grid or to bins, so that its size does not depend on the number of cases. Bands
are vertical: 95 % intervals of `intervals`, of the value at each place. Source of vertical bands: Fawcett, "An
introduction to ROC analysis", Pattern Recognition Letters 27, 2006, section 8.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from src.evaluate.calibration import BINS
from src.evaluate.intervals import LOGIT, PatientRatios, interval, jackknife, proportion_interval, sums_by_patient
from src.evaluate.operating_point import predictive_values, thresholds_from_other_folds
from src.evaluate.study import Cases
from src.labels import LABELS

GRID = np.linspace(0, 1, 101)  # false positive rates of a ROC curve, recalls of a precision-recall curve
THRESHOLDS = 500  # at most, of a curve
PREVALENCES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


class Curves:
    """ROC and precision-recall curve of one label over GRID: weights (P,) -> (2, 101), NaN without both kinds of cases.

    The first row is the sensitivity at each false positive rate, linear between thresholds; the second the precision at
    the largest threshold that has at least that recall. targets, scores: (N,), of which 500 quantiles are thresholds;
    patients: (N,), from 0 to P - 1.
    """

    def __init__(self, targets: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> None:
        positive = targets == 1
        # as many thresholds among the positives as among the negatives: the rarer kind decides the steps of the curve
        quantiles = np.linspace(0, 1, THRESHOLDS // 2)
        kinds = [scores[kind] for kind in (positive, ~positive) if kind.any()]
        edges = np.unique(np.concatenate([np.quantile(kind, quantiles, method="nearest") for kind in kinds]))
        bins = len(edges) - np.searchsorted(edges, scores, side="right")  # 0 for the highest
        self._n_bins = len(edges) + 1
        self._bins = [bins[positive], bins[~positive]]
        self._patients = [patients[positive], patients[~positive]]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The two curves with each patient counted as often as `weights` gives."""
        true, false = (
            np.append(0, np.cumsum(np.bincount(bins, weights=weights[patients], minlength=self._n_bins)))
            for bins, patients in zip(self._bins, self._patients, strict=True)
        )
        if not true[-1] or not false[-1]:
            return np.full((2, len(GRID)), np.nan)
        recall, fall_out = true / true[-1], false / false[-1]
        # of points above each other the highest, as the curve has it
        last = np.append(np.flatnonzero(np.diff(fall_out)), len(fall_out) - 1)
        sensitivity = np.interp(GRID, fall_out[last], recall[last])
        precision = np.divide(true, true + false, out=np.ones(len(true)), where=true + false > 0)
        at = np.searchsorted(recall, GRID, side="left")
        at = np.where((recall[at] == 0) & (at + 1 < len(recall)), np.searchsorted(recall, 0, side="right"), at)
        return np.stack([sensitivity, precision[at]])


def ranking_curves(cases: Cases) -> pd.DataFrame:
    """ROC and precision-recall curves of each label: `label`, `curve` ("roc" or "pr"), `x`, `y`, `low`, `high`."""
    frames = []
    for label, targets, scores in zip(LABELS, cases.targets.T, cases.probabilities.T, strict=True):
        curves = Curves(targets, scores, cases.patients)
        values = curves(np.ones(cases.n_patients, dtype=np.int64))
        if np.isnan(values).all():
            continue
        left_out = jackknife(curves, cases.n_patients)
        kinds = [sums_by_patient((targets == kind)[:, None], cases.patients) for kind in (1, 0)]
        rarer = min(kinds, key=lambda each: int((each > 0).sum()))
        low, high = (
            np.reshape(end, values.shape)
            for end in proportion_interval(
                values.ravel(), left_out.reshape(len(left_out), -1), np.repeat(rarer, values.size, axis=1)
            )
        )
        for i, curve in enumerate(("roc", "pr")):
            columns = {"x": GRID, "y": values[i], "low": low[i], "high": high[i]}
            frames.append(pd.DataFrame({"label": label, "curve": curve, **columns}))
    if not frames:
        return pd.DataFrame(columns=["label", "curve", "x", "y", "low", "high"])
    return pd.concat(frames, ignore_index=True)


def reliability(cases: Cases) -> pd.DataFrame:
    """Reliability diagrams of each label, in the 15 bins of the calibration error, without bins that have no cases.

    Columns: `label`, `bin` (from 1), `n`, `positives`, `probability` (mean) and `fraction` of positives, with the ends
    `low` and `high` of its interval.
    """
    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    frames = []
    for label, targets, probabilities in zip(LABELS, cases.targets.T, cases.probabilities.T, strict=True):
        bins = np.digitize(probabilities, inner_edges, right=True)
        there = np.unique(bins)
        members = bins[:, None] == there
        fraction = PatientRatios(members & (targets == 1)[:, None], members, cases.patients)
        value = fraction(np.ones(cases.n_patients, dtype=np.int64))
        left_out = jackknife(fraction, cases.n_patients)
        low, high = proportion_interval(value, left_out, sums_by_patient(members, cases.patients))
        n = members.sum(axis=0)
        mean = np.bincount(bins, weights=probabilities)[there] / n
        positives = np.bincount(bins, weights=targets)[there].astype(np.int64)
        columns = {"bin": there + 1, "n": n, "positives": positives, "probability": mean, "fraction": value}
        frames.append(pd.DataFrame({"label": label, **columns, "low": low, "high": high}))
    return pd.concat(frames, ignore_index=True)


def predictive_curves(cases: Cases, prevalences: Sequence[float] = PREVALENCES) -> pd.DataFrame:
    """PPV and NPV of each label where it is rarer or more frequent, at Youden's threshold of the other folds.

    Columns: `prevalence`, `label`, `ppv`, `ppv_low`, `ppv_high`, `npv`, `npv_low`, `npv_high`. Both are NaN where they
    are not defined: without another fold to choose thresholds on, or where no such answer is ever given.
    """
    thresholds = thresholds_from_other_folds(cases).loc[cases.folds].to_numpy()
    known, called = ~np.isnan(thresholds), cases.probabilities >= thresholds
    positive, negative = (known & (cases.targets == kind) for kind in (1, 0))
    rates = PatientRatios(
        np.hstack([called & positive, ~called & negative]), np.hstack([positive, negative]), cases.patients
    )
    value, left_out = rates(np.ones(cases.n_patients, dtype=np.int64)), jackknife(rates, cases.n_patients)
    counts = [sums_by_patient(each, cases.patients) for each in (positive, negative)]
    of_rates = proportion_interval(value, left_out, np.hstack(counts))
    few = np.minimum(*((each > 0).sum(axis=0) for each in counts))
    frames = []
    for prevalence in prevalences:
        columns: dict[str, np.ndarray] = {}
        split = [np.split(each, 2, axis=-1) for each in (value, left_out, *of_rates)]
        found, without, lowest, highest = (predictive_values(each[0], each[1], prevalence) for each in split)
        for i, name in enumerate(("ppv", "npv")):
            low, high = interval(found[i], without[i], LOGIT, few)
            # a value of 0 or 1 shows no error of its own: the ends of both rates make its ends
            columns[name] = found[i]
            columns[f"{name}_low"] = np.where(np.isnan(low), lowest[i], low)
            columns[f"{name}_high"] = np.where(np.isnan(high), highest[i], high)
        frames.append(pd.DataFrame({"prevalence": prevalence, "label": LABELS, **columns}))
    return pd.concat(frames, ignore_index=True)
