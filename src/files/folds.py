"""The table of folds, checked: which slices and patients are held out together."""

import numpy as np
import pandas as pd
from xxhash import xxh3_64_intdigest

from src.errors import UserError, first_few
from src.files.layout import Layout
from src.files.tables import read_table


def read_fold_table(layout: Layout) -> pd.DataFrame:
    """Read cache/folds.parquet: `ID`, `PatientID`, `fold`.

    Raises UserError as `read_table`, for a slice that comes twice among others, and where folds split a patient:
    everything that is called out of fold rests on this.
    """
    folds = read_table(layout.folds, ("ID", "PatientID", "fold"), step="preprocess")[["ID", "PatientID", "fold"]]
    patients = folds.groupby("PatientID")["fold"]
    split = patients.min().index[patients.min() != patients.max()]
    if len(split):
        raise UserError(
            f"{layout.folds} splits {len(split)} patients, {first_few(split)}: a network would be judged by patients "
            "that it was trained on; delete it",
            step="preprocess",
        )
    return folds


def patient_hashes(patients: pd.Series) -> np.ndarray:
    """A number for each PatientID, the same in every run: (N,) uint64."""
    codes, unique = pd.factorize(patients)
    return np.array([xxh3_64_intdigest(str(each).encode()) for each in unique], dtype=np.uint64)[codes]
