"""Labels of whole studies, from a CSV in one of two forms: the reads of several readers, or plain 0 and 1.

Plain: an id column, SeriesInstanceUID, StudyInstanceUID or PatientID (the first of these that is there), and any of the
six labels as columns of 0, 1 or nothing. Where `any` is absent, as a column or in a row, the subtypes make it.

Reads, as CQ500 has them: `name`, such as CQ500-CT-0, and for each reader R1, R2, ... columns `R1:ICH`, `R1:IPH` and so
on; the majority of those who read a finding counts, and a tie is no label. Source: Chilamkurthy et al., "Deep learning
algorithms for detection of critical findings in head CT scans", Lancet 392, 2018.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.tables import read_csv
from src.labels import LABELS

ID_COLUMNS = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID")
FINDINGS = {"ICH": "any", "EDH": "epidural", "IPH": "intraparenchymal", "IVH": "intraventricular"} | {
    "SAH": "subarachnoid", "SDH": "subdural"
}  # fmt: skip
_READ = re.compile(rf"R(\d+):({'|'.join(FINDINGS)})")
_CQ500 = re.compile(r"\s*CQ500[-_ ]?CT[-_ ]?0*(\d+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class StudyLabels:
    """Labels of N ids. kind: one of ID_COLUMNS. values: (N, 6) of 0, 1 and NaN for a label that is not known.

    ties: how many labels (6,) are not known because readers disagreed. contradicting: ids whose `any` is 0 though a
    subtype is 1; they stay as they are.
    """

    kind: str
    ids: Sequence[str]
    values: np.ndarray
    ties: np.ndarray
    contradicting: Sequence[str]


def read_study_labels(path: Path) -> StudyLabels:
    """Read a CSV of either form. Raises UserError where it is neither, or an id has two different labels."""
    table = read_csv(path, (), dtype=defaultdict(lambda: "str"))
    table.columns = [str(name).strip() for name in table.columns]
    has = f"it has {first_few(table.columns, 8)}"
    reads = any(_READ.fullmatch(name) for name in table.columns)
    kind = next((name for name in ID_COLUMNS if name in table.columns), "")
    if not kind and not (reads and "name" in table.columns):
        raise UserError(
            f"{path} has no id column; expected {', '.join(ID_COLUMNS)}, or name with R1:ICH and the like; {has}"
        )
    plain = any(label in table.columns for label in LABELS)
    if not plain and not reads:
        raise UserError(f"{path} has no labels; expected columns {', '.join(LABELS)}, or R1:ICH and the like; {has}")
    if not len(table):
        raise UserError(f"{path} has no rows; expected one for each study")
    ids = table[kind or "name"].fillna("").str.strip()
    if (ids == "").any():
        raise UserError(f"{path}: {kind or 'name'} is empty in row {int(np.flatnonzero(ids == '')[0]) + 2}")
    if plain:
        values, ties = plain_values(path, table, ids), np.zeros(len(LABELS), dtype=np.int64)
    else:
        values, ties = _majority(path, table, ids)
    distinct, first = distinct_ids(path, ids.map(canonical_id), values)
    contradicting = (values[:, 0] == 0) & (values[:, 1:] == 1).any(axis=1)
    named = [name for name, wrong in zip(distinct, contradicting[first], strict=True) if wrong]
    return StudyLabels(kind or "PatientID", distinct, values[first], ties, named)


def canonical_id(text: str) -> str:
    """An id as it is compared: the spellings of CQ500, such as CQ500CT7 and CQ500-CT-7, are one."""
    found = _CQ500.fullmatch(text)
    return f"CQ500-CT-{found[1]}" if found else text.strip()


def plain_values(path: Path, table: pd.DataFrame, ids: pd.Series) -> np.ndarray:
    """The labels of a plain table of text, (N, 6): what it says, and `any` from the subtypes where it says nothing.

    0, 1 and NaN for what is not known. Raises UserError, which names the ids, for anything else.
    """
    values = np.full((len(table), len(LABELS)), np.nan)
    for i, label in enumerate(LABELS):
        if label in table.columns:
            values[:, i] = _numbers(path, table[label], ids)
    subtypes = values[:, 1:]
    made = np.where((subtypes == 1).any(axis=1), 1.0, np.where((subtypes == 0).all(axis=1), 0.0, np.nan))
    values[:, 0] = np.where(np.isnan(values[:, 0]), made, values[:, 0])
    return values


def _majority(path: Path, table: pd.DataFrame, ids: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """What most readers found, (N, 6), and ties by label, (6,)."""
    values, ties = np.full((len(table), len(LABELS)), np.nan), np.zeros(len(LABELS), dtype=np.int64)
    for finding, label in FINDINGS.items():
        columns = [name for name in table.columns if (found := _READ.fullmatch(name)) and found[2] == finding]
        if not columns:
            continue
        votes = np.stack([_numbers(path, table[name], ids) for name in columns], axis=1)
        balance = (votes == 1).sum(axis=1) - (votes == 0).sum(axis=1)
        read = ~np.isnan(votes).all(axis=1)
        i = LABELS.index(label)
        values[:, i] = np.where(balance == 0, np.nan, balance > 0)
        ties[i] = int((read & (balance == 0)).sum())
    return values, ties


def _numbers(path: Path, column: pd.Series, ids: pd.Series) -> np.ndarray:
    """A column of 0, 1 and nothing, as 0, 1 and NaN: (N,)."""
    text = column.fillna("").str.strip()
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero((text != "").to_numpy() & ~np.isin(numbers, (0, 1)))
    if len(wrong):
        named = first_few(f"{ids.iloc[i]} has {column.iloc[i]}" for i in wrong)
        raise UserError(f"{path}: {len(wrong)} values of {column.name} are not 0, 1 or empty: {named}")
    return numbers


def distinct_ids(path: Path, ids: pd.Series, values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Each id once, and the number of its first row. Raises UserError where a later row says something else."""
    codes, distinct = pd.factorize(ids)
    first = np.unique(codes, return_index=True)[1]
    other = np.flatnonzero(
        ~((values == values[first[codes]]) | np.isnan(values) & np.isnan(values[first[codes]])).all(1)
    )
    if len(other):
        raise UserError(f"{path}: different labels of the same id: {first_few(dict.fromkeys(ids.iloc[other]))}")
    return list(distinct), first
