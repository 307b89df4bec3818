"""Statistics of out-of-fold predictions for a report, by slice and by study, with confidence intervals.

By label: AUC, average precision, sensitivity and specificity at the threshold with the largest Youden's J on the other
folds, PPV and NPV at four prevalences, Brier score, expected calibration error and log loss.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.config import load_config
from src.errors import UserError, first_few, run_command
from src.evaluate.calibration import calibration_error_by_label, squared_errors
from src.evaluate.intervals import (
    LOG,
    LOGIT,
    PatientRatios,
    Ranking,
    Statistic,
    interval,
    jackknife,
    proportion_interval,
    sums_by_patient,
)
from src.evaluate.operating_point import predictive_values, thresholds_from_other_folds
from src.evaluate.out_of_fold import Truth, check_out_of_fold, read_truth
from src.evaluate.score import log_losses
from src.evaluate.study import Cases, to_studies
from src.files.atomic import replacing
from src.files.layout import Layout
from src.files.predictions import Predictions, read_predictions
from src.files.run import Run
from src.labels import LABELS, WEIGHTS

PREVALENCES = (0.02, 0.05, 0.10, 0.15)
WITH_INTERVAL = (
    "auc",
    "average_precision",
    "sensitivity",
    "specificity",
    *(f"{value}_at_{prevalence:.2f}" for prevalence in PREVALENCES for value in ("ppv", "npv")),
    "brier_score",
    "log_loss",
)  # in the order of `statistics`


# ---- predictions to score


def read_sources(sources: Sequence[Path], layout: Layout, epochs: Sequence[int], truth: Truth) -> list[Predictions]:
    """Read prediction files, and for confs their existing out-of-fold files at the given epochs.

    Raises UserError for a conf without such files, a file given twice and files that are not out of fold.
    """
    paths: list[Path] = []
    for source in sources:
        if source.suffix not in (".yaml", ".yml"):
            paths.append(source)
            continue
        name = load_config(source).name
        run = Run(layout, [name], np.unique(truth.folds).tolist(), epochs)
        there, _ = run.prediction_files("valid", "cnn")
        if not there:
            raise UserError(
                f"{source}: no out-of-fold predictions of epochs {', '.join(map(str, epochs))} in {layout.conf(name)}",
                step="predict",
            )
        paths += there
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise UserError(f"given more than once: {first_few(twice)}")
    predictions = [read_predictions(path) for path in paths]
    check_out_of_fold(predictions, truth)
    return predictions


def average(predictions: Sequence[Predictions]) -> tuple[pd.Index, np.ndarray]:
    """The mean probability of each slice over the files that predict it: ids (N,) and (N, 6).

    Raises UserError naming the first few slices that are in fewer files than others, because a mean over fewer networks
    is another model.
    """
    rows, found = pd.factorize(np.concatenate([each.ids.to_numpy(dtype=object) for each in predictions]))
    ids, counts = pd.Index(found), np.bincount(rows)
    if not len(ids):
        raise UserError(f"no slices are predicted in {first_few(each.path for each in predictions)}")
    rarer = ids[counts < counts.max()]
    if len(rarer):
        raise UserError(
            f"{len(rarer)} slices are in fewer prediction files than others ({counts.min()} and not {counts.max()}): "
            f"{first_few(rarer)}; predict the same folds and epochs with each conf, or leave out a source or an epoch"
        )
    total, start = np.zeros((len(ids), len(LABELS))), 0
    for each in predictions:
        total[rows[start : start + len(each.ids)]] += each.probabilities
        start += len(each.ids)
    return ids, total / counts.max()


def to_levels(truth: Truth, probabilities: np.ndarray) -> dict[str, Cases]:
    """The cases by slice and by study. truth: of N slices; probabilities: of the same slices, (N, 6)."""
    # patients without a predicted slice are none that an interval may count
    patients = np.unique(truth.patients, return_inverse=True)[1]
    slices = Cases(truth.targets, probabilities, patients, truth.folds)
    return {"slice": slices, "study": to_studies(slices, truth.studies)}


# ---- statistics


def summarise(level: str, cases: Cases) -> pd.DataFrame:
    """All statistics of slices or of studies, a row for each metric and label.

    Columns: `level`, `label`, `metric`, `value`, `low`, `high`, `n` (slices or studies) and `positives` (how many of
    them have the label). level: "slice", which has an additional row for the weighted log loss, labelled `weighted`, or
    "study". `low` and `high` are the ends of 95 % intervals over patients, with the thresholds kept fixed. They are NaN
    for the calibration error and for the thresholds, `threshold_fold<k>`, which are applied to fold k.
    """
    thresholds = thresholds_from_other_folds(cases)
    of_cases = thresholds.loc[cases.folds].to_numpy()
    statistic = statistics(cases, of_cases)
    values = statistic(np.ones(cases.n_patients, dtype=np.int64))
    left_out = jackknife(statistic, cases.n_patients, desc=f"{level} level")
    low, high = _intervals(cases, of_cases, values, left_out)

    metrics = [*WITH_INTERVAL, "calibration_error", *(f"threshold_fold{fold}" for fold in thresholds.index)]
    further = np.vstack([calibration_error_by_label(cases.targets, cases.probabilities), thresholds.to_numpy()])
    unknown = np.full(further.shape, np.nan)
    frame = pd.DataFrame(
        {
            "level": level,
            "label": np.tile(LABELS, len(metrics)),
            "metric": np.repeat(metrics, len(LABELS)),
            "value": np.vstack([values, further]).ravel(),
            "low": np.vstack([low, unknown]).ravel(),
            "high": np.vstack([high, unknown]).ravel(),
            "n": len(cases.targets),
            "positives": np.tile(cases.targets.sum(axis=0, dtype=np.int64), len(metrics)),
        }
    ).astype({"positives": "Int64"})
    if level == "slice":  # the competition's metric is defined for slices
        losses = [each[..., WITH_INTERVAL.index("log_loss"), :] for each in (values, left_out)]
        value, weighted = (np.average(each, axis=-1, weights=WEIGHTS) for each in losses)
        ends = interval(value, weighted, LOG, cases.n_patients)
        frame.loc[len(frame)] = [level, "weighted", "log_loss", value, *ends, len(cases.targets), pd.NA]
    return frame


def _intervals(
    cases: Cases, thresholds: np.ndarray, values: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of WITH_INTERVAL: thresholds (N, 6), values (M, 6), left_out (G, M, 6) -> (M, 6) twice."""
    known = ~np.isnan(thresholds)
    kinds = [cases.targets == 1, cases.targets == 0]
    positives, negatives = (sums_by_patient(each, cases.patients) for each in kinds)
    called = [sums_by_patient(known & each, cases.patients) for each in kinds]
    # a ranking is known no better than the rarer kind of its cases
    fewer = (positives > 0).sum(axis=0) < (negatives > 0).sum(axis=0)
    rarer = np.where(fewer, positives, negatives)
    counts = {"auc": rarer, "average_precision": rarer, "sensitivity": called[0], "specificity": called[1]}
    patients = np.minimum(*((each > 0).sum(axis=0) for each in called))

    ends: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i, metric in enumerate(WITH_INTERVAL):
        if metric in counts:
            ends[metric] = proportion_interval(values[i], left_out[:, i], counts[metric])
        elif metric.startswith(("ppv", "npv")):
            ends[metric] = interval(values[i], left_out[:, i], LOGIT, patients)
        else:
            ends[metric] = interval(values[i], left_out[:, i], LOG, cases.n_patients)
    # a predictive value of 0 or 1 shows no error of its own: the ends of both rates make its ends
    rates = [(ends["sensitivity"][end], ends["specificity"][end]) for end in (0, 1)]
    for prevalence in PREVALENCES:
        of_rates = [predictive_values(*each, prevalence) for each in rates]
        for j, name in enumerate(("ppv", "npv")):
            metric = f"{name}_at_{prevalence:.2f}"
            ends[metric] = tuple(  # type: ignore[assignment]
                np.where(np.isnan(end), other[j], end) for end, other in zip(ends[metric], of_rates, strict=True)
            )
    low, high = (np.stack([ends[metric][end] for metric in WITH_INTERVAL]) for end in (0, 1))
    return low, high


def statistics(cases: Cases, thresholds: np.ndarray) -> Statistic:
    """The metrics of WITH_INTERVAL as a function of how often each patient counts: weights (P,) -> (M, 6).

    thresholds: (N, 6), applied to each case; a case whose threshold is NaN is left out of sensitivity and specificity.
    """
    targets, probabilities, patients = cases.targets, cases.probabilities, cases.patients
    columns = zip(targets.T, probabilities.T, strict=True)
    rankings = [Ranking(target, probability, patients) for target, probability in columns]
    called, known = probabilities >= thresholds, ~np.isnan(thresholds)
    sensitivity = PatientRatios(called & (targets == 1), known & (targets == 1), patients)
    specificity = PatientRatios(known & ~called & (targets == 0), known & (targets == 0), patients)
    everyone = np.ones(targets.shape, dtype=bool)
    brier_score = PatientRatios(squared_errors(targets, probabilities), everyone, patients)
    log_loss = PatientRatios(log_losses(targets, probabilities), everyone, patients)

    def statistic(weights: np.ndarray) -> np.ndarray:
        ranked = np.stack([ranking(weights) for ranking in rankings], axis=1)
        rates = sensitivity(weights), specificity(weights)
        predictive = [value for prevalence in PREVALENCES for value in predictive_values(*rates, prevalence)]
        return np.stack([*ranked, *rates, *predictive, brier_score(weights), log_loss(weights)])

    return statistic


# ---- report


def report(frame: pd.DataFrame, level: str) -> str:
    """Format the tables of one level: a row per label, values with their intervals, a dash for undefined values."""
    rows = frame[frame["level"] == level].set_index(["metric", "label"])

    def column(metric: str, digits: int, *, with_interval: bool = True) -> list[str]:
        return [_cell(rows.loc[(metric, label)], digits, with_interval) for label in LABELS]

    blocks = [
        {
            "positives": [str(rows.loc[("auc", label), "positives"]) for label in LABELS],
            "AUC": column("auc", 3),
            "average precision": column("average_precision", 3),
            "sensitivity": column("sensitivity", 3),
            "specificity": column("specificity", 3),
        },
        {
            f"{value} at {100 * prevalence:.0f} %": column(
                f"{value.lower()}_at_{prevalence:.2f}", 3, with_interval=False
            )
            for value in ("PPV", "NPV")
            for prevalence in PREVALENCES
        },
        {
            "Brier score": column("brier_score", 4),
            "log loss": column("log_loss", 4),
            "calibration error": column("calibration_error", 4, with_interval=False),
        },
    ]
    lines = [pd.DataFrame(block, index=list(LABELS)).to_string() for block in blocks]
    if ("log_loss", "weighted") in rows.index:
        lines.append(f"weighted log loss {_cell(rows.loc[('log_loss', 'weighted')], 4)}")
    return "\n\n".join(lines)


def _cell(row: pd.Series, digits: int, with_interval: bool = True) -> str:
    if np.isnan(row["value"]):
        return "-"
    text = f"{row['value']:.{digits}f}"
    if not with_interval or np.isnan(row["low"]):
        return text
    return f"{text} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def main() -> None:
    """Read the arguments, compute the statistics, write and print them."""
    parser = Parser(
        prog="python -m src.evaluate.summary",
        description=__doc__,
        epilog="example: python -m src.evaluate.summary conf/efficientnet-b2.yaml conf/se_resnext50_32x4d.yaml",
    )
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="a conf (.yaml), which stands for the out-of-fold predictions of its folds, or a file of such predictions "
        "(.parquet), for example of a bag; of several sources, the mean by slice is scored",
    )
    parser.add_root()
    parser.add_epochs()
    parser.add_argument("--output", type=Path, help="CSV to write (default: submission/summary.csv under --root)")
    args = parser.parse_args()
    layout = Layout(args.root)
    output = args.output or args.root / "submission" / "summary.csv"

    everything = read_truth(layout)
    predictions = read_sources(args.sources, layout, args.epochs, everything)
    ids, probabilities = average(predictions)
    truth = everything.of(ids)
    levels = to_levels(truth, probabilities)
    folds = np.unique(truth.folds)
    print(
        f"{len(ids)} of {len(everything)} training slices scored, of {levels['slice'].n_patients} patients; "
        f"folds: {', '.join(map(str, folds))}; prediction files: {len(predictions)}\n"
        f"in brackets 95 % intervals over patients; a dash: not defined"
    )
    silent = [str(each.path) for each in predictions if each.provenance is None]
    if silent:
        print(f"not checked, since these files do not record which network made them: {first_few(silent)}")
    if len(folds) < 2:
        print("no sensitivity, specificity, PPV, NPV: their thresholds come from other folds, and there are none")
    frames = {level: summarise(level, cases) for level, cases in levels.items()}
    frame = pd.concat(frames.values(), ignore_index=True)
    with replacing(output) as temporary:
        frame.to_csv(temporary, index=False)
    titles = {
        "slice": "slices",
        "study": "studies, the maximum over their slices: it ranks them, but is not calibrated",
    }
    for level, title in titles.items():
        print(f"\n{len(levels[level].targets)} {title}\n\n{report(frame, level)}")
    print(f"\n{output}: {len(frame)} rows")


if __name__ == "__main__":
    run_command(main)
