"""Whether probabilities mean what they say: reliability diagrams, calibration error, Brier score, before and after."""

import numpy as np
import pandas as pd

from src.ensemble.assemble import OutOfFold
from src.ensemble.recipe import Recipe
from src.evaluate.calibration import Recalibration, calibration_error_by_label, squared_errors
from src.evaluate.curves import reliability
from src.evaluate.intervals import LOG, PatientRatios, interval, jackknife
from src.evaluate.score import log_losses
from src.evaluate.study import Cases
from src.labels import LABELS
from src.report.blocks import Column, Figure, Group, Missing, Section, Table
from src.report.charts import DASHES, MUTED, SERIES, drawing_with_counts, legend
from src.report.names import LABEL_TITLES
from src.report.sources import Sources

_TRIED = "platt"  # what is shown as "after" where the submission is not calibrated


def calibration(sources: Sources) -> Section:
    """The section."""
    section = Section(
        "calibration",
        "Calibration",
        "By slice. Of all slices with a probability of 0.2, a fifth should have the label.",
    )
    members = sources.members
    if members is None:
        section.blocks.append(Missing("No submission has been made and scored out of fold yet.", "ensemble"))
        return section
    stages, note = _stages(members, sources.recipe)
    cases = {name: _cases(members, probabilities) for name, probabilities in stages.items()}
    figures = pd.concat([_figures(each).assign(stage=name) for name, each in cases.items()], ignore_index=True)
    figures = figures.sort_values("label", key=lambda each: each.map(LABELS.index), kind="stable", ignore_index=True)
    columns = [
        Column("Label", "title"),
        Column("probabilities", "stage"),
        Column("calibration error", "calibration_error", 4),
        Column("Brier score", "brier_score", 4, interval=True),
        Column("log loss", "log_loss", 4, interval=True),
        Column("intercept", "intercept", 2),
        Column("slope", "slope", 2),
    ]
    about = (
        f"{note} Calibration error: expected, in 15 bins. Intercept: below 0 where probabilities are too high, 0 is "
        "right. Slope: below 1 where they are too extreme, 1 is right."
    )
    section.blocks.append(Table("calibration", "Calibration before and after", figures, columns, about))
    bins = pd.concat([reliability(each).assign(stage=name) for name, each in cases.items()], ignore_index=True)
    section.blocks.append(Table("reliability", "Reliability diagrams", bins))
    section.blocks.append(_diagrams(bins, list(cases)))
    return section


def _stages(members: OutOfFold, recipe: Recipe) -> tuple[dict[str, np.ndarray], str]:
    """The bag before and after calibration, (N, 6) by name, each fold by a fit on the others; and a note."""
    inputs = members.probabilities, members.truth.targets, members.positions, members.truth.folds
    plain = Recipe(recipe.blend, recipe.smooth_mm, "none", recipe.consistent)
    calibrated = recipe.calibrate != "none"
    after = Recipe(recipe.blend, recipe.smooth_mm, recipe.calibrate if calibrated else _TRIED, recipe.consistent)
    before = plain.cross_fit(*inputs)
    if len(np.unique(members.truth.folds)) < 2:
        return {"as they are": before}, "A calibration is fitted on other folds, and there are none."
    if calibrated:
        return {"before": before, f"after ({after.calibrate})": after.cross_fit(*inputs)}, ""
    note = (
        "The submission is not calibrated. Platt scaling, fitted on the other folds, is shown to say what a "
        "calibration would change."
    )
    return {"as submitted": before, "Platt, not submitted": after.cross_fit(*inputs)}, note


def _cases(members: OutOfFold, probabilities: np.ndarray) -> Cases:
    patients = np.unique(members.truth.patients, return_inverse=True)[1]
    return Cases(members.truth.targets, probabilities, patients, members.truth.folds)


def _figures(cases: Cases) -> pd.DataFrame:
    """Calibration error, Brier score, log loss, intercept and slope of each label."""
    scores = np.hstack(
        [squared_errors(cases.targets, cases.probabilities), log_losses(cases.targets, cases.probabilities)]
    )
    mean = PatientRatios(scores, np.ones(scores.shape, dtype=bool), cases.patients)
    everyone = np.ones(cases.n_patients, dtype=np.int64)
    value, left_out = mean(everyone), jackknife(mean, cases.n_patients)
    low, high = (np.split(each, 2) for each in interval(value, left_out, LOG, cases.n_patients))
    brier, loss = np.split(value, 2)
    lines = [
        Recalibration(target, probability, cases.patients)(everyone)
        for target, probability in zip(cases.targets.T, cases.probabilities.T, strict=True)
    ]
    return pd.DataFrame(
        {
            "label": LABELS,
            "title": [LABEL_TITLES[label] for label in LABELS],
            "calibration_error": calibration_error_by_label(cases.targets, cases.probabilities),
            "brier_score": brier,
            "brier_score_low": low[0],
            "brier_score_high": high[0],
            "log_loss": loss,
            "log_loss_low": low[1],
            "log_loss_high": high[1],
            "intercept": [line[0] for line in lines],
            "slope": [line[1] for line in lines],
        }
    )


def _diagrams(bins: pd.DataFrame, stages: list[str]) -> Group:
    figures = []
    for label in LABELS:
        of_label = bins[bins["label"] == label]
        with drawing_with_counts(
            LABEL_TITLES[label], "mean probability of the bin", "fraction with the label", "slices"
        ) as (figure, axes, counts):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
            for i, stage in enumerate(stages):
                rows = of_label[of_label["stage"] == stage]
                reach = np.abs(rows[["low", "high"]].to_numpy().T - rows["fraction"].to_numpy())
                axes.errorbar(
                    rows["probability"],
                    rows["fraction"],
                    reach,
                    marker="os"[i],
                    linestyle=DASHES[i],
                    color=SERIES[i],
                    linewidth=1.2,
                    elinewidth=0.8,
                    label=stage,
                )
                counts.plot(rows["probability"], rows["n"], "os"[i], color=SERIES[i])
            legend(axes)
        alt = f"Reliability diagram of {LABEL_TITLES[label].lower()}: fraction of slices with the label by probability."
        figures.append(Figure(f"reliability_{label}", LABEL_TITLES[label], alt, "reliability", figure))
    note = "On the dotted line probabilities are right. Above: how many slices are in each bin, on a logarithmic scale."
    return Group("Reliability diagrams", figures, note)
