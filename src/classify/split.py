"""Which slices a fold trains on and which it is validated on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.classify.stacks import Stacks, find_stacks
from src.errors import UserError, first_few
from src.files.layout import Layout
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class Slices:
    """N slices, each in its stack, and their targets (N, 6) uint8."""

    stacks: Stacks
    targets: np.ndarray

    @property
    def ids(self) -> list[str]:
        """The slices' ids, (N)."""
        return self.stacks.ids

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, chosen: np.ndarray) -> "Slices":
        """Some of them, by a mask or by indices."""
        return Slices(self.stacks.take(chosen), self.targets[chosen])

    def fingerprint(self) -> str:
        """A word that changes when the slices, their order, their pixels or their targets do."""
        digest = hashlib.blake2b(self.stacks.fingerprint().encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.targets, dtype=np.uint8).data)
        return digest.hexdigest()


def read_split(layout: Layout, fold: int, neighbours: int = 0) -> tuple[Slices, Slices]:
    """(training slices, validation slices) of a fold; neighbours: of each slice on either side, in its stack.

    Raises UserError as `read_folds`.
    """
    slices, in_fold = read_folds(layout, [fold], neighbours)
    return slices.take(in_fold != fold), slices.take(in_fold == fold)


def read_folds(layout: Layout, folds: Sequence[int], neighbours: int = 0) -> tuple[Slices, np.ndarray]:
    """All training slices and the fold of each, (N,).

    Raises UserError where tables are missing or disagree, the store lacks slices, or one of `folds` does not exist.
    """
    table = read_table(layout.folds, ("ID", "fold"), made_by="bin/preprocess.sh")
    labels = read_table(layout.table("train"), ("ID", *LABELS), made_by="bin/preprocess.sh")
    existing = sorted(table["fold"].unique())
    for fold in folds:
        if fold not in existing:
            raise UserError(f"there is no fold {fold}; {layout.folds} has {', '.join(map(str, existing))}")
    joined = table.merge(labels[["ID", *LABELS]], on="ID", how="left", validate="one_to_one")
    unknown = joined.loc[joined[LABELS[0]].isna(), "ID"]
    if len(unknown):
        raise UserError(
            f"{layout.folds} has {len(unknown)} slices that {layout.table('train')} lacks: {first_few(unknown)}; "
            "run bin/preprocess.sh again"
        )
    stacks = find_stacks(layout, "train", neighbours, joined["ID"].tolist())
    return Slices(stacks, joined[list(LABELS)].to_numpy(dtype=np.uint8)), joined["fold"].to_numpy()
