"""What is known of the training slices, against which out-of-fold predictions are judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.layout import Layout
from src.files.predictions import Predictions
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class Truth:
    """N slices: ids (N,), targets (N, 6) of 0 and 1, and for each the patient, the study and the fold, as integers."""

    ids: pd.Index
    targets: np.ndarray
    patients: np.ndarray
    studies: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: pd.Index) -> "Truth":
        """The truth of these slices, in their order. Raises UserError naming the first few that are unknown."""
        places = self.ids.get_indexer(ids)
        unknown = ids[places < 0]
        if len(unknown):
            raise UserError(
                f"{len(unknown)} predicted slices are not among the training slices: {first_few(unknown)}; "
                "expected out-of-fold predictions"
            )
        return Truth(ids, self.targets[places], self.patients[places], self.studies[places], self.folds[places])


def read_truth(layout: Layout) -> Truth:
    """The slices of the folds with their labels. Raises UserError where tables are missing or disagree."""
    folds = read_table(layout.folds, ("ID", "PatientID", "fold"), made_by="bin/preprocess.sh")
    columns = ["ID", "StudyInstanceUID", *LABELS]
    table = read_table(layout.table("train"), columns, made_by="bin/preprocess.sh")[columns]
    ids = pd.Index(folds["ID"])
    places = pd.Index(table["ID"]).get_indexer(ids)
    lacking = ids[places < 0]
    if len(lacking):
        raise UserError(
            f"{layout.folds} has {len(lacking)} slices that {layout.table('train')} lacks: {first_few(lacking)}; "
            "run bin/preprocess.sh again"
        )
    return Truth(
        ids,
        table[list(LABELS)].to_numpy(dtype=np.uint8)[places],
        pd.factorize(folds["PatientID"])[0],
        pd.factorize(table["StudyInstanceUID"].to_numpy()[places])[0],
        folds["fold"].to_numpy(dtype=np.int64),
    )


def check_out_of_fold(predictions: Sequence[Predictions], truth: Truth) -> None:
    """Raise UserError for a file that is not out of fold: of slices that its network may have been trained on."""
    for each in predictions:
        if each.origin is None:
            continue  # from elsewhere: it does not say which network made it
        if each.origin.split != "valid":
            raise UserError(f"{each.path} is of the {each.origin.split} set; expected out-of-fold predictions")
        seen = each.ids[truth.of(pd.Index(each.ids)).folds != each.origin.fold]
        if len(seen):
            raise UserError(
                f"{each.path}: {len(seen)} slices are not in fold {each.origin.fold}, so its network was trained on "
                f"them: {first_few(seen)}; run bin/train.sh and bin/predict.sh again"
            )
