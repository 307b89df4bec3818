"""A split's slices in series, with their embeddings by the network of one fold, which is known to be that fold's."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from src.classify.split import read_folds
from src.config import Config
from src.errors import UserError
from src.files.embeddings import Embeddings
from src.files.layout import Layout
from src.sequence.series import NO_FOLD, InSeries, read_in_series


@dataclass(frozen=True)
class Embedded:
    """The slices of a split in series, and their embeddings by the network that did not see `fold`."""

    slices: InSeries
    embeddings: Embeddings
    fold: int

    @property
    def unseen(self) -> np.ndarray:
        """Which slices the network did not see, (N,) bool: its fold's, and a test set's."""
        return np.isin(self.slices.folds, (self.fold, NO_FOLD))

    def series(self, *, unseen: bool) -> np.ndarray:
        """Which series the network did not see, or those that it was trained on: (K,) indices."""
        return np.flatnonzero(self.unseen[self.slices.starts[:-1]] == unseen)

    def fingerprint(self) -> str:
        """A word that changes when the embeddings, the slices, their places, targets or folds do."""
        digest = hashlib.blake2b(json.dumps(asdict(self.embeddings.by)).encode(), digest_size=16)
        for each in (self.slices.z, self.slices.starts, self.slices.targets, self.slices.folds):
            digest.update(np.ascontiguousarray(each).data)
        return digest.hexdigest()


def read_embedded(classifier: Config, fold: int, epoch: int, layout: Layout, split: str) -> Embedded:
    """Embeddings of a split ("train" or "test") by a classifier's network of one fold and epoch.

    Raises UserError where they are missing, of another fold, of other slices than there are now, or by a network that
    was trained on other slices than the fold leaves it: it may have seen those that are kept from it.
    """
    embeddings = Embeddings(layout.fold(classifier.name, fold).embeddings(split, epoch))
    by, path = embeddings.by, embeddings.path
    expected = {"conf": classifier.name, "fold": fold, "epoch": epoch, "split": split}
    for key, value in expected.items():
        if getattr(by, key) != value:
            raise UserError(
                f"{path} is of {key} {getattr(by, key)}, expected {value}; delete it and run bin/sequence.sh"
            )
    slices = read_in_series(layout, split, classifier.neighbours)
    if by.slices != slices.stacks.fingerprint() or len(embeddings) != len(slices.ids):
        raise UserError(f"{path} is of other slices than {layout.store(split)} has now; run bin/sequence.sh again")
    every, in_fold = read_folds(layout, [fold], classifier.neighbours)
    if by.trained_on != every.take(in_fold != fold).fingerprint():
        raise UserError(
            f"{path} is by a network that was trained on other slices, folds or labels than fold {fold} leaves it now, "
            "so that it may have seen what is kept from it; run bin/train.sh and bin/sequence.sh again"
        )
    return Embedded(slices, embeddings, fold)
