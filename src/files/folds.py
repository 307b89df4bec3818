"""The table of folds, checked: which slices and patients are held out together."""

import numpy as np
import pandas as pd
from xxhash import xxh3_64_intdigest

from src.errors import UserError, first_few
from src.files.layout import Layout
from src.files.tables import read_table


def read_fold_table(layout: Layout) -> pd.DataFrame:
    """Read cache/folds.parquet: `ID`, `PatientID`, `fold`.

    Raises UserError where it is missing or damaged, has a slice twice or a fold that is no whole number, or splits a
    patient: everything that is called out of fold rests on this.
    """
    folds = read_table(layout.folds, ("ID", "PatientID", "fold"), step="preprocess")[["ID", "PatientID", "fold"]]
    if folds.isna().any(axis=None):
        raise UserError(
            f"{layout.folds} has empty values; expected a slice, a patient and a fold in each row", step="preprocess"
        )
    if not pd.api.types.is_integer_dtype(folds["fold"]) or (folds["fold"] < 0).any():
        raise UserError(f"{layout.folds}: expected folds of 0 and above, whole numbers", step="preprocess")
    twice = folds.loc[folds["ID"].duplicated(), "ID"]
    if len(twice):
        raise UserError(f"{layout.folds} has {len(twice)} slices twice: {first_few(twice)}", step="preprocess")
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
