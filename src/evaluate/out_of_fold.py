"""The true labels and the folds of the training slices, and a check that predictions of them are out of fold."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.folds import read_fold_table
from src.files.layout import Layout
from src.files.predictions import Predictions
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class Truth:
    """N slices: ids (N,), targets (N, 6) of 0 and 1, and the patient, study and fold of each as integers (N,).

    folds_fingerprint: a hash of the folds of all training slices, not only of these.
    """

    ids: pd.Index
    targets: np.ndarray
    patients: np.ndarray
    studies: np.ndarray
    folds: np.ndarray
    folds_fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: pd.Index) -> "Truth":
        """Select slices, in the order of `ids`. Raises UserError naming the first few that are unknown."""
        rows = self.ids.get_indexer(ids)
        unknown = ids[rows < 0]
        if len(unknown):
            raise UserError(
                f"{len(unknown)} predicted slices are not among the training slices: {first_few(unknown)}; "
                "expected out-of-fold predictions"
            )
        return Truth(
            ids,
            self.targets[rows],
            self.patients[rows],
            self.studies[rows],
            self.folds[rows],
            self.folds_fingerprint,
        )


def read_truth(layout: Layout) -> Truth:
    """Read the slices of all folds with their labels.

    Raises UserError as `read_fold_table`, and if tables are missing or disagree.
    """
    folds = read_fold_table(layout)
    columns = ["ID", "StudyInstanceUID", *LABELS]
    table = read_table(layout.table("train"), columns, step="preprocess")[columns]
    ids = pd.Index(folds["ID"])
    rows = pd.Index(table["ID"]).get_indexer(ids)
    lacking = ids[rows < 0]
    if len(lacking):
        raise UserError(
            f"{layout.folds} has {len(lacking)} slices that {layout.table('train')} lacks: {first_few(lacking)}",
            step="preprocess",
        )
    return Truth(
        ids,
        table[list(LABELS)].to_numpy(dtype=np.uint8)[rows],
        pd.factorize(folds["PatientID"])[0],
        pd.factorize(table["StudyInstanceUID"].to_numpy()[rows])[0],
        folds["fold"].to_numpy(dtype=np.int64),
        fingerprint_folds(folds),
    )


def fingerprint_folds(folds: pd.DataFrame) -> str:
    """A hash of which slice and patient is in which fold, in any row order. folds: `ID`, `PatientID`, `fold`."""
    hashes = pd.util.hash_pandas_object(folds[["ID", "PatientID", "fold"]].astype(str), index=False)
    return hashlib.blake2b(np.sort(hashes.to_numpy()).tobytes(), digest_size=16).hexdigest()


def check_out_of_fold(predictions: Sequence[Predictions], truth: Truth) -> None:
    """Raise UserError for a file that is not out of fold: its network may have been trained on some of its slices.

    The file of a bag must have been made with the current folds.
    """
    for each in predictions:
        if each.folds is not None and each.folds != truth.folds_fingerprint:
            raise UserError(f"{each.path} was made with other folds than there are now", step="ensemble")
        if each.provenance is None:
            continue  # the file does not record which network made it
        if each.provenance.split != "valid":
            raise UserError(f"{each.path} is of the {each.provenance.split} set; expected out-of-fold predictions")
        seen = each.ids[truth.of(pd.Index(each.ids)).folds != each.provenance.fold]
        if len(seen):
            raise UserError(
                f"{each.path}: {len(seen)} slices are not in fold {each.provenance.fold}, so its network was trained "
                f"on them: {first_few(seen)}; train this fold again, then predict",
                step="train",
            )
