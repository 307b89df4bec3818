"""Which slices a fold trains on and which it is validated on."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class Slices:
    """Some slices: ids (N) and targets (N, 6) uint8."""

    ids: list[str]
    targets: np.ndarray

    def fingerprint(self, store: ImageStore) -> str:
        """A word that changes when the slices, their order, their pixels or their targets do."""
        digest = hashlib.blake2b(store.fingerprint(self.ids).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.targets, dtype=np.uint8).data)
        return digest.hexdigest()


def read_split(layout: Layout, fold: int) -> tuple[Slices, Slices]:
    """(training slices, validation slices) of a fold.

    Raises UserError where tables are missing or disagree, or there is no such fold.
    """
    folds = read_table(layout.folds, ("ID", "fold"), made_by="bin/preprocess.sh")
    table = read_table(layout.table("train"), ("ID", *LABELS), made_by="bin/preprocess.sh")
    existing = sorted(folds["fold"].unique())
    if fold not in existing:
        raise UserError(f"there is no fold {fold}; {layout.folds} has {', '.join(map(str, existing))}")
    joined = folds.merge(table[["ID", *LABELS]], on="ID", how="left", validate="one_to_one")
    unknown = joined.loc[joined[LABELS[0]].isna(), "ID"]
    if len(unknown):
        raise UserError(
            f"{layout.folds} has {len(unknown)} slices that {layout.table('train')} lacks: {first_few(unknown)}; "
            "run bin/preprocess.sh again"
        )
    valid = (joined["fold"] == fold).to_numpy()
    return _slices(joined[~valid]), _slices(joined[valid])


def _slices(table: pd.DataFrame) -> Slices:
    return Slices(table["ID"].tolist(), table[list(LABELS)].to_numpy(dtype=np.uint8))
