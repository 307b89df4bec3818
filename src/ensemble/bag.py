"""Simple bagging: the mean of probabilities, aligned by ID."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.predictions import Predictions


@dataclass(frozen=True)
class Member:
    """A prediction that goes into a bag, or the bag's own: a name for messages, ids (N,), probabilities (N, 6)."""

    name: str
    ids: pd.Index
    probabilities: np.ndarray


def aligned(members: Sequence[Member]) -> tuple[pd.Index, np.ndarray]:
    """Bring members of the same slices into the row order of the first: its ids (N,), and probabilities (M, N, 6).

    Raises UserError naming the first few slices that one member has and another lacks.
    """
    first = members[0]
    rows = []
    for each in members:
        if each.ids.equals(first.ids):
            rows.append(each.probabilities)
            continue
        extra, lacking = each.ids.difference(first.ids), first.ids.difference(each.ids)
        if len(extra):
            raise UserError(f"{each.name} has {len(extra)} slices that {first.name} lacks: {first_few(extra)}")
        if len(lacking):
            raise UserError(f"{each.name} lacks {len(lacking)} slices that {first.name} has: {first_few(lacking)}")
        rows.append(each.probabilities[each.ids.get_indexer(first.ids)])
    return first.ids, np.stack(rows).astype(np.float64)


def on_common_slices(members: Sequence[Member]) -> list[Member]:
    """Restrict members to the slices that all of them predict. Raises UserError if there are none."""
    common = members[0].ids
    for member in members[1:]:
        if not member.ids.equals(common):
            common = common.intersection(member.ids, sort=False)
    if not len(common):
        raise UserError(
            "the out-of-fold predictions have no slice in common; predict the same folds with each classifier"
        )
    return [
        each if each.ids.equals(common) else Member(each.name, common, each.probabilities[each.ids.get_indexer(common)])
        for each in members
    ]


def bag(members: Sequence[Member]) -> Member:
    """The mean over members of the same slices. Raises UserError like `aligned`."""
    ids, probabilities = aligned(members)
    return Member("bag", ids, probabilities.mean(axis=0))


def test_set_members(predictions: Sequence[Predictions]) -> list[Member]:
    """Make each classifier at one epoch a member: the mean over its folds, so that all members have equal weight.

    A file without provenance is a member by itself. Raises UserError if files of a member predict different slices, or
    a file is given twice.
    """
    twice = [path for path, count in Counter(each.path.resolve() for each in predictions).items() if count > 1]
    if twice:
        raise UserError(f"given more than once: {first_few(twice)}")
    provenances = Counter(each.provenance for each in predictions if each.provenance is not None)
    for each in predictions:
        if each.provenance is not None and each.provenance.split != "test":
            raise UserError(f"{each.path} is out of fold; expected predictions of the test set")
        if each.provenance is not None and provenances[each.provenance] > 1:
            raise UserError(f"{each.path}: another file given is by the same network; each counts once")
    parts: dict[str, list[Member]] = defaultdict(list)
    for each in predictions:
        name = str(each.path) if each.provenance is None else f"{each.provenance.conf} epoch {each.provenance.epoch}"
        parts[name].append(Member(str(each.path), pd.Index(each.ids), each.probabilities))
    return [replace(bag(files), name=name) for name, files in parts.items()]


def out_of_fold_members(predictions: Sequence[Predictions]) -> list[Member]:
    """Make each classifier at one epoch a member: the out-of-fold files of its folds cover each training slice once.

    Raises UserError for files that do not record that they are out of fold, and for slices in more than one of a
    member's files.
    """
    parts: dict[str, list[Predictions]] = defaultdict(list)
    for each in predictions:
        if each.provenance is None or each.provenance.split != "valid":
            raise UserError(
                f"{each.path} does not record that it is out of fold; expected a prediction file of this pipeline"
            )
        parts[f"{each.provenance.conf} epoch {each.provenance.epoch}"].append(each)
    members = []
    for name, files in parts.items():
        ids = pd.Index(np.concatenate([each.ids.to_numpy(dtype=object) for each in files]))
        if ids.has_duplicates:
            twice = first_few(ids[ids.duplicated()])
            raise UserError(f"{name}: more than one fold predicts the same slices: {twice}", step="predict")
        members.append(Member(name, ids, np.concatenate([each.probabilities for each in files])))
    return members
