"""Figures of a detector on cases that it was never fitted to, with intervals over patients.

Here thresholds are given, not chosen; some labels of some cases are not known; and prevalence is a figure like others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from src.evaluate.calibration import Recalibration, calibration_error_by_label, squared_errors
from src.evaluate.intervals import (
    LOG,
    LOGIT,
    PLAIN,
    PatientRatios,
    Ranking,
    Statistic,
    interval,
    jackknife,
    proportion_interval,
    sums_by_patient,
)
from src.evaluate.operating_point import predictive_values
from src.evaluate.score import log_losses
from src.labels import LABELS

Thresholds = Mapping[str, Mapping[str, float | None]]  # by name of the operating point, then by label
COLUMNS = ("label", "operating_point", "metric", "value", "low", "high", "n", "positives", "patients")
_RANKED, _SCORED, _FITTED = slice(0, 2), slice(2, 4), slice(4, 6)
_RATES = ("sensitivity", "specificity", "ppv", "npv")
_METRICS = ("auc", "average_precision", "brier_score", "log_loss", "calibration_intercept", "calibration_slope")


def external_figures(
    targets: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    thresholds: Thresholds,
    prevalence: float | None = None,
) -> pd.DataFrame:
    """All figures of N cases: a row for each label, operating point and metric, with the COLUMNS.

    targets: (N, 6) of 0, 1 and NaN, which leaves a case out of a label's figures. probabilities: (N, 6). patients: (N,)
    of anything that tells them apart. prevalence: of any bleed, for further predictive values of the label any,
    `ppv_at_0.1` and `npv_at_0.1`; those of other labels would need prevalences of their own.

    `value` is NaN where a metric is not defined, `low` and `high`, the ends of its 95 % interval, also where it has
    none. `n` and `positives` are cases, `patients` those of them. Rows about a threshold name the operating point.
    """
    rows: list[dict[str, Any]] = []
    if not len(targets):
        return pd.DataFrame(columns=list(COLUMNS))
    losses = log_losses(np.nan_to_num(targets), probabilities)
    for label, target, probability, loss in zip(LABELS, targets.T, probabilities.T, losses.T, strict=True):
        known = ~np.isnan(target)
        if not known.any():
            continue
        of_label = {name: by_label[label] for name, by_label in thresholds.items()}
        numbers = np.unique(patients[known], return_inverse=True)[1]
        one = _Label(target[known], probability[known], loss[known], numbers, of_label)
        counts = {"n": len(numbers), "positives": int(target[known].sum()), "patients": one.n_patients}
        rows += [{"label": label, **row, **counts} for row in one.rows(prevalence if label == "any" else None)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Label:
    """The N cases of a label that are known: targets, probabilities, log losses, patients (N,); thresholds by name."""

    def __init__(
        self,
        targets: np.ndarray,
        probabilities: np.ndarray,
        losses: np.ndarray,
        patients: np.ndarray,
        thresholds: Mapping[str, Any],
    ) -> None:
        self._targets, self._probabilities, self._patients = targets, probabilities, patients
        self._losses = np.stack([squared_errors(targets, probabilities), losses], axis=1)
        self._thresholds = {name: np.nan if each is None else float(each) for name, each in thresholds.items()}
        self.n_patients = int(patients.max()) + 1
        positive = (targets == 1)[:, None]
        by_kind = [sums_by_patient(each, patients) for each in (positive, ~positive)]
        # a ranking is known no better than the rarer kind of its cases
        self._rarer = min(by_kind, key=lambda each: int((each > 0).sum()))
        self._numerators, self._denominators = self._rates(positive)

    def _rates(self, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is counted for the four rates of each of Q operating points: (N, 4 Q) twice."""
        above, below = [], []
        for threshold in self._thresholds.values():
            known = np.full(positive.shape, not np.isnan(threshold))
            called = known & (self._probabilities >= threshold)[:, None]
            spared = known & ~called
            above += [called & positive, spared & ~positive, called & positive, spared & ~positive]
            below += [known & positive, known & ~positive, called, spared]
        nothing = np.empty((len(positive), 0), dtype=bool)  # of a detector without operating points
        return np.hstack([nothing, *above]), np.hstack([nothing, *below])

    def rows(self, prevalence: float | None) -> list[dict[str, Any]]:
        """The figures, without the label's name and counts."""
        ranking = Ranking(self._targets, self._probabilities, self._patients)
        scored = PatientRatios(self._losses, np.ones(self._losses.shape), self._patients)
        fitted = Recalibration(self._targets, self._probabilities, self._patients)
        parts: list[Statistic] = [ranking, scored, fitted]
        if self._thresholds:
            parts.append(PatientRatios(self._numerators, self._denominators, self._patients))

        def statistic(weights: np.ndarray) -> np.ndarray:
            return np.concatenate([part(weights) for part in parts])

        values = statistic(np.ones(self.n_patients, dtype=np.int64))
        left_out = jackknife(statistic, self.n_patients)
        few = int((self._rarer > 0).sum())
        intervals = (
            proportion_interval(values[_RANKED], left_out[:, _RANKED], np.repeat(self._rarer, 2, axis=1)),
            interval(values[_SCORED], left_out[:, _SCORED], LOG, self.n_patients),
            interval(values[_FITTED], left_out[:, _FITTED], PLAIN, few),
        )
        ends = [np.concatenate([each[end] for each in intervals]) for end in (0, 1)]
        rows = [_row(name, values[i], ends[0][i], ends[1][i]) for i, name in enumerate(_METRICS)]
        error = calibration_error_by_label(self._targets[:, None], self._probabilities[:, None])[0]
        rows.append(_row("calibration_error", error))
        rows.append(self._prevalence())
        return rows + self._at_points(values[_FITTED.stop :], left_out[:, _FITTED.stop :], prevalence, few)

    def _prevalence(self) -> dict[str, Any]:
        everyone = np.ones((len(self._targets), 1))
        ratio = PatientRatios(self._targets[:, None], everyone, self._patients)
        value, left_out = ratio(np.ones(self.n_patients, dtype=np.int64)), jackknife(ratio, self.n_patients)
        low, high = proportion_interval(value, left_out, sums_by_patient(everyone, self._patients))
        return _row("prevalence", value[0], low[0], high[0])

    def _at_points(
        self, values: np.ndarray, left_out: np.ndarray, prevalence: float | None, few: int
    ) -> list[dict[str, Any]]:
        """The rows of each operating point: values (4 Q,), left_out (G, 4 Q)."""
        if not self._thresholds:
            return []
        low, high = proportion_interval(values, left_out, sums_by_patient(self._denominators, self._patients))
        rows = []
        for number, (name, threshold) in enumerate(self._thresholds.items()):
            at = slice(4 * number, 4 * number + 4)
            found = [_row("threshold", threshold)]
            found += [_row(*each) for each in zip(_RATES, values[at], low[at], high[at], strict=True)]
            if prevalence is not None:
                found += _expected(values[at], left_out[:, at], (low[at], high[at]), prevalence, few)
            rows += [{**row, "operating_point": name} for row in found]
        return rows


def _expected(
    rates: np.ndarray, left_out: np.ndarray, ends: tuple[np.ndarray, np.ndarray], prevalence: float, few: int
) -> list[dict[str, Any]]:
    """Predictive values at another prevalence: rates (4,), of which two are sensitivity and specificity."""
    values = np.stack(predictive_values(rates[0], rates[1], prevalence))
    without = np.stack(predictive_values(left_out[:, 0], left_out[:, 1], prevalence), axis=1)
    found = interval(values, without, LOGIT, few)
    # a value of 0 or 1 shows no error of its own: the ends of both rates make its ends
    of_rates = [np.stack(predictive_values(end[0], end[1], prevalence)) for end in ends]
    low, high = (np.where(np.isnan(one), other, one) for one, other in zip(found, of_rates, strict=True))
    return [_row(f"{name}_at_{prevalence:g}", values[i], low[i], high[i]) for i, name in enumerate(("ppv", "npv"))]


def _row(metric: str, value: float, low: float = np.nan, high: float = np.nan) -> dict[str, Any]:
    return {"operating_point": "", "metric": metric, "value": float(value), "low": float(low), "high": float(high)}
