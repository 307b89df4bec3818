"""A detector's answers beside labels: a case for each study, and every figure about them in one table."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from src.dicom.description import Description
from src.evaluate.external import COLUMNS, Thresholds, external_figures
from src.files.study_labels import StudyLabels
from src.labels import LABELS
from src.progress import progress
from src.study.choose import is_sharp
from src.study.find import Study
from src.study.match import Matched
from src.study.results import Row

ENOUGH = 20  # studies of a group that is evaluated by itself
NOT_KNOWN = "not in the headers"
EVERYTHING = "all"
PROBABILITIES = [f"p_{label}" for label in LABELS]
FRAME_COLUMNS = ("group", "level", *COLUMNS, "note")

_SEXES = {"F": "female", "M": "male"}
_AGES = ((18, "under 18"), (40, "18 to 39"), (60, "40 to 59"), (80, "60 to 79"), (np.inf, "80 and over"))  # years


def _thickness(first: Description) -> str:
    if not np.isfinite(first.thickness):
        return ""
    if first.thickness <= 1.5:
        return "up to 1.5 mm"
    return "1.5 to 3.5 mm" if first.thickness <= 3.5 else "over 3.5 mm"


def _kernel(first: Description) -> str:
    return ("bone" if is_sharp(first.kernel) else "soft") if first.kernel else ""


def _age(first: Description) -> str:
    return next((name for below, name in _AGES if first.age < below), "")


GROUPS: Mapping[str, Callable[[Description], str]] = {
    "scanner": lambda first: first.manufacturer.upper(),
    "thickness": _thickness,
    "kernel": _kernel,
    "sex": lambda first: _SEXES.get(first.sex, first.sex),
    "age": _age,
}


def cases_table(matched: Matched, rows: Sequence[Row]) -> pd.DataFrame:
    """A row for each study that has labels: ids, status, why, labels, probabilities (`p_any` and so on), its groups.

    rows: those of the work list. A study of which several series were read has the maximum of each probability, and is
    in the groups of the series with the most probable bleed. Where none was read, `status` and `why` say so.
    """
    of_study = _rows_by_study(matched.studies, rows)
    table = []
    for study, target, found in zip(matched.studies, matched.targets, of_study, strict=True):
        read = [row for row in found if row.summary is not None]
        values = np.array([[row.summary["study"][label] for label in LABELS] for row in read if row.summary])
        case: dict[str, Any] = {"PatientID": study.patient, "StudyInstanceUID": study.uid, "SeriesInstanceUID": ""}
        case |= {"status": "read", "why": ""}
        if not read:
            status = next((each for each in ("failed", "refused") if each in {row.status for row in found}), "not read")
            case |= {"status": status, "why": "; ".join(row.why for row in found if row.status == status)}
        case |= dict(zip(LABELS, target, strict=True))
        case |= dict(zip(PROBABILITIES, values.max(axis=0) if read else [np.nan] * len(LABELS), strict=True))
        case |= dict.fromkeys(GROUPS, "")
        if read:
            uid = read[int(values[:, 0].argmax())].SeriesInstanceUID
            first = next(scan.first for scan in study.scans if scan.uid == uid)
            case |= {"SeriesInstanceUID": uid} | {name: of(first) for name, of in GROUPS.items()}
        table.append(case)
    return pd.DataFrame(table)


def _rows_by_study(studies: Sequence[Study], rows: Sequence[Row]) -> list[list[Row]]:
    owner: dict[tuple[str, str, str], int] = {}
    for number, study in enumerate(studies):
        for each in (*(scan.first for scan in study.scans), *(series[0] for series in study.others)):
            owner.setdefault((each.patient, each.study, each.series), number)
    found: list[list[Row]] = [[] for _ in studies]
    for row in rows:
        found[owner[row.PatientID, row.StudyInstanceUID, row.SeriesInstanceUID]].append(row)
    return found


def validation_frame(
    cases: pd.DataFrame,
    rows: Sequence[Row],
    labels: StudyLabels,
    matched: Matched,
    thresholds: Thresholds,
    prevalence: float | None = None,
) -> pd.DataFrame:
    """Every figure, a row for each: FRAME_COLUMNS.

    group, level: "all", or what the cases were grouped by and which of them these are; a group of fewer than ENOUGH
    studies has its count alone, and a note. Counts of series, labels and what did not match have groups of their own.
    """
    read = cases[cases["status"] == "read"]
    parts = [_counts(cases, rows, labels, matched)]
    groups = [(EVERYTHING, "", read)]
    for name in GROUPS:
        groups += [(name, str(level), of_level) for level, of_level in read.groupby(name)]
    with progress(desc="figures", total=len(groups), unit="group", shown=len(read) > ENOUGH) as shown:
        for group, level, members in groups:
            parts.append(_figures(group, level, members, thresholds, prevalence))
            shown.update()
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True).reindex(columns=list(FRAME_COLUMNS))
    counts = ["n", "positives", "patients"]
    texts = ["group", "level", "label", "operating_point", "metric", "note"]
    return frame.astype(dict.fromkeys(counts, "Int64")).fillna(dict.fromkeys(texts, ""))


def _figures(
    group: str, level: str, members: pd.DataFrame, thresholds: Thresholds, prevalence: float | None
) -> pd.DataFrame:
    patients = _patients(members)
    whole = group == EVERYTHING
    note = "" if whole or level else NOT_KNOWN
    if not note and not whole and len(members) < ENOUGH:
        note = f"fewer than {ENOUGH} studies"
    counts = pd.DataFrame(
        [_count(group, "studies", len(members), level, note), _count(group, "patients", len(set(patients)), level)]
    )
    if note or not len(members):
        return counts
    targets, probabilities = (members[list(columns)].to_numpy(dtype=np.float64) for columns in (LABELS, PROBABILITIES))
    figures = external_figures(targets, probabilities, patients, thresholds, prevalence)
    return pd.concat([counts, figures.assign(group=group, level=level)], ignore_index=True)


def _patients(cases: pd.DataFrame) -> np.ndarray:
    """What tells the patients of some cases apart, (N,); a study without a PatientID is a patient by itself."""
    known = cases["PatientID"] != ""
    return np.where(known, "patient " + cases["PatientID"], "study " + cases["StudyInstanceUID"]).astype(str)


def _counts(cases: pd.DataFrame, rows: Sequence[Row], labels: StudyLabels, matched: Matched) -> pd.DataFrame:
    """What was left out, and why."""
    unread = cases[cases["status"] != "read"]
    counts = [
        _count("studies", "labelled", len(cases)),
        _count("studies", "without_answer", len(unread)),
        _count("studies", "without_answer_positive", int((unread["any"] == 1).sum())),
        _count("studies", "without_label", len(matched.studies_left)),
        _count("labels", "ids", len(labels.ids)),
        _count("labels", "unmatched", len(matched.labels_left)),
        _count("labels", "contradicting", len(labels.contradicting)),
        _count("labels", "of_several_studies", len(matched.shared)),
        _count("labels", "of_disagreeing_series", len(matched.disagreeing)),
    ]
    for i, label in enumerate(LABELS):
        counts.append({**_count("labels", "missing", int(np.isnan(matched.targets[:, i]).sum())), "label": label})
        counts.append({**_count("labels", "tied", int(labels.ties[i])), "label": label})
    for status in ("read", "refused", "failed", "not read"):
        of_status = [row for row in rows if row.status == status]
        counts.append(_count("series", status.replace(" ", "_"), len(of_status)))
        reasons = Counter(reason_of(row.why) for row in of_status if row.why)
        for reason, count in reasons.most_common():
            counts.append(_count("series", f"{status.replace(' ', '_')}_because", count, level=reason))
    return pd.DataFrame(counts)


def reason_of(why: str) -> str:
    """The kind of a reason in a work list, without what differs from series to series."""
    kind = re.sub(r"^\d+ objects", "objects", why.split(": ")[0])
    return re.sub(r"(?<=as series ).*(?=, which is read)", "another", kind)


def _count(group: str, metric: str, value: float, level: str = "", note: str = "") -> dict[str, Any]:
    return {"group": group, "level": level, "metric": metric, "value": float(value), "note": note}


def records(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The rows of a table for JSON: None for what is not defined."""
    for row in frame.to_dict("records"):
        yield {name: None if pd.isna(value) else value for name, value in row.items()}
