"""A submission: columns `ID,Label`, a row for each slice and label, in the order of the sample submission."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.ensemble.bag import Member
from src.errors import UserError, first_few
from src.evaluate.score import CLIP, auc_by_label, average_precision_by_label, log_loss_by_label
from src.files.tables import read_csv
from src.labels import LABELS, WEIGHTS, split_row_ids


def read_sample(path: Path) -> pd.DataFrame:
    """Read Kaggle's sample submission: `ID`. Raises UserError if it is missing or has a row twice."""
    sample = read_csv(path, ("ID",), dtype={"ID": "str"})
    _require_once(sample["ID"], str(path))
    return sample


def make_submission(sample: pd.DataFrame, bagged: Member) -> pd.DataFrame:
    """Give the rows of the sample submission their probabilities, clipped to [1e-6, 1 - 1e-6].

    sample: `ID` as `ID_..._<label>`. Raises UserError naming the first few slices of the sample that are not
    predicted, or predicted slices that the sample lacks.
    """
    slice_ids, codes = split_row_ids(sample["ID"])
    rows = bagged.ids.get_indexer(pd.Index(slice_ids))
    if (rows < 0).any():
        lacking = slice_ids[rows < 0].unique()
        raise UserError(f"{len(lacking)} slices of the sample submission have no prediction: {first_few(lacking)}")
    extra = bagged.ids.difference(pd.Index(slice_ids.unique()))
    if len(extra):
        raise UserError(f"{len(extra)} predicted slices are not in the sample submission: {first_few(extra)}")
    probabilities = np.clip(bagged.probabilities[rows, codes.to_numpy()], CLIP, 1 - CLIP)
    return pd.DataFrame({"ID": sample["ID"], "Label": probabilities})


def read_submission(path: Path) -> pd.DataFrame:
    """Read a submission that was made here or elsewhere: `ID`, and `Label` as float64.

    Raises UserError if it is missing, has other columns, or has a label that is not a number.
    """
    table = read_csv(path, ("ID", "Label"), dtype={"ID": "str", "Label": "str"})
    if list(table.columns) != ["ID", "Label"]:
        raise UserError(f"{path}: the columns are {', '.join(map(str, table.columns))}; expected ID, Label")
    numbers = pd.to_numeric(table["Label"], errors="coerce").astype(np.float64)
    bad = numbers.isna()
    if bad.any():
        raise UserError(f"{path}: {bad.sum()} labels are no numbers: {_named(table['ID'][bad], table['Label'][bad])}")
    return table.assign(Label=numbers)


def check_submission(submission: pd.DataFrame, sample: pd.DataFrame, name: str) -> None:
    """Raise UserError unless a submission has the sample's rows, each once, in its order, with probabilities in [0, 1].

    name: of the submission, for messages, which list the first few wrong rows.
    """
    ids, wanted = submission["ID"], sample["ID"]
    _require_once(ids, name)
    lacking, extra = wanted[~wanted.isin(ids)], ids[~ids.isin(wanted)]
    if len(lacking):
        raise UserError(f"{name} lacks {len(lacking)} rows of the sample submission: {first_few(lacking)}")
    if len(extra):
        raise UserError(f"{name} has {len(extra)} rows that the sample submission lacks: {first_few(extra)}")
    moved = np.flatnonzero(ids.to_numpy() != wanted.to_numpy())
    if len(moved):
        at = moved[0]
        raise UserError(
            f"{name} has the sample submission's rows in another order, from row {at + 2} on: {ids.iloc[at]}, "
            f"expected {wanted.iloc[at]}"
        )
    labels = submission["Label"]
    bad = ~labels.between(0, 1)
    if bad.any():
        raise UserError(f"{name}: {bad.sum()} labels are not in [0, 1]: {_named(ids[bad], labels[bad])}")


def score_submission(submission: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Log loss, AUC and average precision by label, and in the first row the weighted log loss.

    truth: a row per slice, `ID` and the six labels. Raises UserError if it has other slices.
    """
    slice_ids, codes = split_row_ids(submission["ID"])
    rows = pd.Index(truth["ID"]).get_indexer(pd.Index(slice_ids))
    unknown = slice_ids[rows < 0].unique()
    if len(unknown):
        raise UserError(f"the truth lacks {len(unknown)} slices of the submission: {first_few(unknown)}")
    without = len(truth) - len(np.unique(rows))
    if without:
        raise UserError(f"the truth has {without} slices that the submission lacks; expected the same slices")
    probabilities = np.empty((len(truth), len(LABELS)))
    probabilities[rows, codes.to_numpy()] = submission["Label"]
    targets = truth[list(LABELS)].to_numpy()
    losses = log_loss_by_label(targets, probabilities)
    by_label = pd.DataFrame(
        {
            "log loss": losses,
            "AUC": auc_by_label(targets, probabilities),
            "average precision": average_precision_by_label(targets, probabilities),
            "positives": targets.sum(axis=0),
        },
        index=list(LABELS),
    )
    weighted = pd.DataFrame({"log loss": [np.average(losses, weights=WEIGHTS)]}, index=["weighted"])
    return pd.concat([weighted, by_label])


def _require_once(ids: pd.Series, name: str) -> None:
    twice = ids[ids.duplicated()]
    if len(twice):
        raise UserError(f"{name} has {len(twice)} rows more than once: {first_few(twice)}")


def _named(ids: pd.Series, labels: pd.Series) -> str:
    return first_few(f"{each} has {label}" for each, label in zip(ids, labels, strict=True))
