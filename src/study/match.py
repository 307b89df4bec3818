"""Which study a label belongs to, and what is left over on both sides."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from src.errors import UserError, first_few
from src.files.study_labels import StudyLabels, canonical_id
from src.labels import LABELS
from src.study.find import Study

_ALIKE = 0.85  # of difflib's ratio, from 0 to 1: one wrong character of a short id
_NAMED = 3


@dataclass(frozen=True)
class Matched:
    """Studies with labels: M studies, their targets (M, 6) of 0, 1 and NaN, and what matches nothing.

    labels_left: ids of the labels that no study has; studies_left: ids of the studies that have no label, of the kind
    that the labels name. shared: patients whose label was given to several studies. disagreeing: studies whose series
    have different labels; the maximum counts.
    """

    studies: Sequence[Study]
    targets: np.ndarray
    labels_left: Sequence[str]
    studies_left: Sequence[str]
    shared: Sequence[str]
    disagreeing: Sequence[str]


def match(labels: StudyLabels, studies: Sequence[Study]) -> Matched:
    """Give each study the labels of its patient, its own, or its series', whichever kind there is.

    A study whose series have labels has the maximum of them, of those that are known. Raises UserError where no label
    belongs to any study.
    """
    rows = {each: i for i, each in enumerate(labels.ids)}
    used: dict[int, int] = {}
    matched, targets, left, disagreeing = [], [], [], []
    for study in studies:
        ids = ids_of(study, labels.kind)
        found = sorted({rows[each] for each in ids if each in rows})
        if not found:
            if study.scans:  # an MR needs no label
                left += ids or [study.uid]
            continue
        for row in found:
            used[row] = used.get(row, 0) + 1
        values = labels.values[found]
        target = _maximum(values)
        if ((values != target) & ~np.isnan(values)).any():
            disagreeing.append(study.uid)
        matched.append(study)
        targets.append(target)
    unused = [each for i, each in enumerate(labels.ids) if i not in used]
    if not matched:
        raise UserError(
            f"none of the {len(unused)} ids of the labels is the {labels.kind} of one of the {len(studies)} studies "
            f"found: {named_nearly(unused, left)}; the studies have {first_few(left)}"
        )
    shared = [labels.ids[row] for row, count in used.items() if count > 1]
    return Matched(matched, np.array(targets).reshape(-1, len(LABELS)), unused, left, shared, disagreeing)


def ids_of(study: Study, kind: str) -> list[str]:
    """The ids of a study by which labels may name it, as they are compared."""
    series = [scan.uid for scan in study.scans] + [each[0].series for each in study.others]
    of_kind = {"PatientID": [study.patient], "StudyInstanceUID": [study.uid], "SeriesInstanceUID": series}[kind]
    return [canonical_id(each) for each in dict.fromkeys(of_kind) if each]


def named_nearly(ids: Sequence[str], others: Iterable[str]) -> str:
    """Name the first few of some ids, each with the one of others that is nearly the same: `A1 (nearly A-1), B`."""
    candidates = list(dict.fromkeys(others))
    shown = []
    for each in ids[:_NAMED]:
        alike = difflib.get_close_matches(each, candidates, n=1, cutoff=_ALIKE)
        shown.append(f"{each} (nearly {alike[0]})" if alike else each)
    return first_few([*shown, *ids[_NAMED:]], _NAMED)


def _maximum(values: np.ndarray) -> np.ndarray:
    """The maximum of each column, (N, 6) -> (6,), NaN where all of it is."""
    lowest = np.where(np.isnan(values), -1.0, values).max(axis=0)
    return np.where(lowest < 0, np.nan, lowest)
