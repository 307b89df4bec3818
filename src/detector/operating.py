"""Operating points of a detector and figures about it, from the out-of-fold predictions of its bag."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.ct.series import order_by_series
from src.evaluate.operating_point import sensitivity_threshold, specificity_threshold, youden_threshold
from src.evaluate.out_of_fold import check_out_of_fold, read_truth
from src.evaluate.score import auc_by_label
from src.evaluate.study import Cases
from src.evaluate.summary import to_levels
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.files.slice_positions import SlicePositions, read_slice_positions
from src.labels import LABELS

OPERATING_POINTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "youden": youden_threshold,
    "sensitivity_95": lambda targets, probabilities: sensitivity_threshold(targets, probabilities, 0.95),
    "specificity_95": lambda targets, probabilities: specificity_threshold(targets, probabilities, 0.95),
}

POINT_TITLES = {"youden": "Youden", "sensitivity_95": "95 % sensitivity", "specificity_95": "95 % specificity"}

Thresholds = dict[str, dict[str, dict[str, float | None]]]  # by level, name and label


def score_out_of_fold_bag(path: Path, layout: Layout) -> tuple[Thresholds, dict[str, Any]]:
    """Operating points by level ("slice", "study"), name and label, and figures for people.

    A threshold is None for a label that no slice has, or every one. Raises UserError where the predictions or the
    tables of preprocessing are missing, or do not belong together.
    """
    predictions, everything = read_predictions(path), read_truth(layout)
    check_out_of_fold([predictions], everything)
    truth = everything.of(pd.Index(predictions.ids))
    levels = to_levels(truth, predictions.probabilities.astype(np.float64))
    thresholds = {level: _thresholds(cases) for level, cases in levels.items()}
    return thresholds, {
        "folds_fingerprint": everything.folds_fingerprint,
        "training": {
            "slices": len(everything),
            "studies": len(np.unique(everything.studies)),
            "patients": len(np.unique(everything.patients)),
            "positive_slices": _by_label(everything.targets.sum(axis=0)),
            "gap_mm": _number(median_gap(read_slice_positions(layout.table("train"), everything.ids))),
        },
        "patients": levels["slice"].n_patients,
        "levels": {
            level: _figures(cases) | {"operating": _rates(cases, thresholds[level])} for level, cases in levels.items()
        },
    }


def median_gap(positions: SlicePositions) -> float:
    """The median distance of adjacent slices of a series in mm; NaN where no series has two."""
    order, starts = order_by_series(positions.series, positions.z)
    gaps = np.diff(positions.z[order])
    gaps[starts[1:-1] - 1] = np.nan  # from one series to the next
    gaps = gaps[gaps > 0]
    return float(np.median(gaps)) if len(gaps) else np.nan


def _rates(cases: Cases, thresholds: dict[str, dict[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Sensitivity and specificity at each threshold on the cases that it was chosen on, by name and label."""
    rates: dict[str, dict[str, Any]] = {}
    for name, by_label in thresholds.items():
        rates[name] = {}
        for label, targets, probabilities in zip(LABELS, cases.targets.T, cases.probabilities.T, strict=True):
            threshold = by_label[label]
            called = probabilities >= (np.inf if threshold is None else threshold)
            rates[name][label] = {
                "sensitivity": _fraction(called[targets == 1], threshold),
                "specificity": _fraction(~called[targets == 0], threshold),
            }
    return rates


def _fraction(right: np.ndarray, threshold: float | None) -> float | None:
    return None if threshold is None or not len(right) else float(right.mean())


def _thresholds(cases: Cases) -> dict[str, dict[str, float | None]]:
    columns = list(zip(LABELS, cases.targets.T, cases.probabilities.T, strict=True))
    return {
        name: {label: _number(threshold(*pair)) for label, *pair in columns}
        for name, threshold in OPERATING_POINTS.items()
    }


def _figures(cases: Cases) -> dict[str, Any]:
    return {
        "cases": len(cases.targets),
        "positives": _by_label(cases.targets.sum(axis=0)),
        "auc": _by_label(auc_by_label(cases.targets, cases.probabilities)),
    }


def _by_label(values: np.ndarray) -> dict[str, float | None]:
    return {label: _number(value) for label, value in zip(LABELS, values, strict=True)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
