"""The table of a validation in words: every number in it is read from that table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from src.detector.operating import POINT_TITLES
from src.labels import LABELS
from src.study.validation import EVERYTHING, GROUPS, NOT_KNOWN

_QUALITY = {
    "AUC": ("auc", 3), "average precision": ("average_precision", 3), "Brier score": ("brier_score", 4),
    "log loss": ("log_loss", 4),
}  # fmt: skip
_CALIBRATION = {
    "calibration error": ("calibration_error", 4), "intercept": ("calibration_intercept", 2),
    "slope": ("calibration_slope", 2),
}  # fmt: skip
_RATES = {"sensitivity": "sensitivity", "specificity": "specificity", "PPV": "ppv", "NPV": "npv"}


def validation_report(frame: pd.DataFrame) -> str:
    """Format a table of `validation_frame`."""
    blocks = [left_out_report(frame)]
    figures = frame[(frame["group"] == EVERYTHING) & (frame["label"] != "")]
    if not len(figures):
        return blocks[0]
    cells = _Cells(figures)
    labels = [label for label in LABELS if label in set(figures["label"])]
    counts = {
        "studies": [cells.count(label, "n") for label in labels],
        "positives": [cells.count(label, "positives") for label in labels],
        "patients": [cells.count(label, "patients") for label in labels],
        "prevalence": [cells(label, "prevalence", 3) for label in labels],
    }
    for columns in (counts, cells.columns(labels, _QUALITY), cells.columns(labels, _CALIBRATION)):
        blocks.append(_table(columns, labels))
    for point in dict.fromkeys(figures.loc[figures["operating_point"] != "", "operating_point"]):
        rates: dict[str, list[str]] = {"threshold": [cells(label, "threshold", 3, point) for label in labels]}
        for title, metric in _RATES.items():
            rates[title] = [cells(label, metric, 3, point) for label in labels]
        for metric in dict.fromkeys(figures.loc[figures["metric"].str.contains("_at_"), "metric"]):
            value, prevalence = metric.split("_at_")
            name = f"{value.upper()} at {100 * float(prevalence):g} %"
            rates[name] = [cells(label, metric, 3, point, with_interval=False) for label in labels]
        title = f"at the detector's operating point {POINT_TITLES.get(point, point)} (out of fold, not chosen here)"
        blocks.append(f"{title}\n\n{_table(rates, labels)}")
    blocks.append(_subgroups(frame))
    return "\n\n".join(blocks)


def left_out_report(frame: pd.DataFrame) -> str:
    """What was found, read and left out, in lines."""
    numbers = frame[frame["label"] == ""].set_index(["group", "metric", "level"])["value"]

    def number(group: str, metric: str) -> int:
        return int(numbers.get((group, metric, ""), 0))

    lines = [
        f"{number(EVERYTHING, 'studies')} studies of {number(EVERYTHING, 'patients')} patients, of "
        f"{number('studies', 'labelled')} with labels; {number('studies', 'without_answer')} have no answer "
        f"({number('studies', 'without_answer_positive')} of them with a bleed); "
        f"{number('studies', 'without_label')} studies without labels were not read",
        f"labels: {number('labels', 'ids')} ids, {number('labels', 'unmatched')} match no study",
    ]
    statuses = ("read", "refused", "failed", "not_read")
    counted = ", ".join(f"{number('series', status)} {status.replace('_', ' ')}" for status in statuses)
    lines.append(f"series: {counted}")
    of_series = frame[(frame["group"] == "series") & frame["metric"].str.endswith("_because")]
    for _, row in of_series.iterrows():
        status = row["metric"].removesuffix("_because").replace("_", " ")
        lines.append(f"  {status}: {row['level']} ({int(row['value'])})")
    for metric, words in (("missing", "no label"), ("tied", "readers divided")):
        rows = frame[(frame["group"] == "labels") & (frame["metric"] == metric) & (frame["value"] > 0)]
        if len(rows):
            named = ", ".join(f"{row['label']} {int(row['value'])}" for _, row in rows.iterrows())
            lines.append(f"{words}: {named}")
    lines.append("in brackets 95 % intervals over patients; a dash: not defined")
    return "\n".join(lines)


class _Cells:
    """The figures of one group as text."""

    def __init__(self, figures: pd.DataFrame) -> None:
        self._rows = {(row["label"], row["metric"], row["operating_point"]): row for _, row in figures.iterrows()}
        self._counts = figures.drop_duplicates("label").set_index("label")

    def count(self, label: str, column: str) -> str:
        return str(self._counts.loc[label, column])

    def columns(self, labels: Sequence[str], metrics: dict[str, tuple[str, int]]) -> dict[str, list[str]]:
        return {title: [self(label, *each) for label in labels] for title, each in metrics.items()}

    def __call__(self, label: str, metric: str, digits: int, point: str = "", *, with_interval: bool = True) -> str:
        row = self._rows.get((label, metric, point))
        if row is None or np.isnan(row["value"]):
            return "-"
        text = f"{row['value']:.{digits}f}"
        if not with_interval or np.isnan(row["low"]):
            return text
        return f"{text} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _subgroups(frame: pd.DataFrame) -> str:
    """A line for each group that is large enough, of the label any; the others by their numbers."""
    index, columns, few = [], [], []
    points = frame.loc[frame["operating_point"] != "", "operating_point"]
    point = points.iloc[0] if len(points) else ""
    for (group, level), rows in frame[frame["group"].isin(list(GROUPS))].groupby(["group", "level"], sort=False):
        studies = rows[rows["metric"] == "studies"].iloc[0]
        if studies["note"]:
            name = NOT_KNOWN if studies["note"] == NOT_KNOWN else level
            few.append(f"{group} {name} {int(studies['value'])}")
            continue
        cells = _Cells(rows[rows["label"] != ""])
        has_any = (rows["label"] == "any").any()
        index.append(f"{group}: {level}")
        columns.append(
            {
                "studies": str(int(studies["value"])),
                "positives": cells.count("any", "positives") if has_any else "-",
                "AUC": cells("any", "auc", 3),
                "sensitivity": cells("any", "sensitivity", 3, point),
                "specificity": cells("any", "specificity", 3, point),
                "slope": cells("any", "calibration_slope", 2),
            }
        )
    parts = []
    if index:
        title = f"by group, any hemorrhage, at the operating point {POINT_TITLES.get(point, point)}"
        parts.append(f"{title}\n\n{pd.DataFrame(columns, index=index).to_string()}")
    if few:
        parts.append(f"too few studies, or not known: {', '.join(few)}")
    return "\n\n".join(parts)


def _table(columns: dict[str, list[str]], labels: Sequence[str]) -> str:
    return pd.DataFrame(columns, index=list(labels)).to_string()
