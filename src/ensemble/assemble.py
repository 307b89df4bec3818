"""Combine prediction files into one prediction of the test set, and score it out of fold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.ensemble.bag import Member, aligned, on_common_slices, out_of_fold_members, test_set_members
from src.ensemble.fill import fill_from_store
from src.ensemble.recipe import Fitted, Recipe
from src.ensemble.scores import by_classifier, correlation_table, score_table
from src.errors import UserError, first_few
from src.evaluate.out_of_fold import Truth, check_out_of_fold
from src.evaluate.score import constant_prior, weighted_log_loss
from src.files.layout import Layout
from src.files.predictions import Predictions
from src.files.slice_positions import SlicePositions, read_slice_positions
from src.labels import LABELS


@dataclass(frozen=True)
class OutOfFold:
    """M members on the N training slices that all of them predict: names (M,), probabilities (M, N, 6)."""

    names: list[str]
    probabilities: np.ndarray
    truth: Truth
    positions: SlicePositions


@dataclass(frozen=True)
class OutOfFoldScores:
    """Scores of a recipe: its out-of-fold bag, a table of log losses by name, and the correlations of members.

    better_alone: the best member, if it would have scored better by itself.
    """

    bagged: Member
    table: pd.DataFrame
    correlations: pd.DataFrame
    better_alone: str | None


def read_out_of_fold(predictions: Sequence[Predictions], truth: Truth, table: Path | None) -> OutOfFold:
    """Members from out-of-fold files. table: cache/train.parquet, for slice positions; None if they are not needed.

    Raises UserError for files that are not out of fold, and if the members have no slice in common.
    """
    members = out_of_fold_members(predictions)
    check_out_of_fold(predictions, truth)
    ids, probabilities = aligned(on_common_slices(members))
    positions = SlicePositions.unknown(len(ids)) if table is None else read_slice_positions(table, ids)
    return OutOfFold([each.name for each in members], probabilities, truth.of(ids), positions)


def score_out_of_fold(held_out: OutOfFold, recipe: Recipe) -> OutOfFoldScores:
    """Score each member, each classifier, the plain bag, the bag of the recipe, and the constant prior.

    The numbers of the recipe are fitted on other folds than those that they are scored on.
    """
    probabilities, targets, folds = held_out.probabilities, held_out.truth.targets, held_out.truth.folds
    bagged = recipe.cross_fit(probabilities, targets, held_out.positions, folds)
    candidates = dict(zip(held_out.names, probabilities, strict=True)) | by_classifier(held_out.names, probabilities)
    candidates["bag"] = probabilities.mean(axis=0)
    if recipe != Recipe():
        candidates[recipe.name] = bagged
    candidates["constant prior"] = constant_prior(targets)
    scores = score_table(targets, candidates)
    best = scores.loc[held_out.names, "weighted"].idxmin()
    return OutOfFoldScores(
        Member("out of fold", held_out.truth.ids, bagged),
        scores,
        correlation_table(held_out.names, probabilities),
        best if scores.loc[best, "weighted"] < weighted_log_loss(targets, bagged) else None,
    )


def require_same_networks(predictions: Sequence[Predictions], out_of_fold: Sequence[Predictions]) -> None:
    """Raise UserError if a network's out-of-fold and test files differ in checkpoint or test-time augmentation."""
    held_out = {(p.conf, p.fold, p.epoch): (each, p) for each in out_of_fold if (p := each.provenance) is not None}
    for each in predictions:
        one = each.provenance
        pair = None if one is None else held_out.get((one.conf, one.fold, one.epoch))
        if one is None or pair is None:
            continue
        other, of_other = pair
        if (one.checkpoint, one.tta) != (of_other.checkpoint, of_other.tta):
            raise UserError(f"{each.path} and {other.path} are by other weights or in other views", step="predict")


def loss_by_network(predictions: Sequence[Predictions], truth: Truth) -> dict[tuple[str, int, int], float]:
    """The weighted log loss of each out-of-fold file on its own slices, by conf, fold and epoch."""
    return {
        (of.conf, of.fold, of.epoch): weighted_log_loss(truth.of(pd.Index(each.ids)).targets, each.probabilities)
        for each in predictions
        if (of := each.provenance) is not None
    }


def assemble(
    predictions: Sequence[Predictions], recipe: Recipe, held_out: OutOfFold | None, layout: Layout | None
) -> tuple[Member, dict[str, Any]]:
    """Combine prediction files of the test set by a recipe: (the bag, the recipe's numbers).

    held_out: out-of-fold predictions that these numbers are fitted on. layout: of the preprocessed data, which
    smoothing needs. Raises UserError if an input that the recipe needs is missing, or if the files of a member predict
    different slices.
    """
    members = test_set_members(predictions)
    ids, probabilities = aligned(members)
    names = [each.name for each in members]
    fitted = _fit(recipe, names, held_out)
    if recipe.smooth_mm == 0:
        positions = SlicePositions.unknown(len(ids))
    elif layout is None:
        raise UserError("smoothing needs the positions of slices, and no tables of preprocessing are given")
    else:
        positions = read_slice_positions(layout.table("test"), ids)
    return Member("bag", ids, fitted(probabilities, positions)), fitted.describe(names)


def fill(bagged: Member, wanted: pd.Index, layout: Layout | None) -> tuple[Member, Counter[str]]:
    """Fill the wanted slices that preprocessing rejected, if a layout is given: (all slices, counts by source)."""
    return (bagged, Counter()) if layout is None else fill_from_store(bagged, wanted, layout)


def _fit(recipe: Recipe, names: list[str], held_out: OutOfFold | None) -> Fitted:
    if not recipe.fits:
        nothing = np.empty((len(names), 0, len(LABELS)))
        return recipe.fit(nothing, nothing[0], SlicePositions.unknown(0))
    if held_out is None:
        raise UserError(f"{recipe.name}: its numbers come from out-of-fold predictions, and none are given")
    differing = sorted({*names} ^ {*held_out.names})
    if differing:
        raise UserError(
            f"{recipe.name}: its numbers come from out-of-fold predictions by the networks that predict the test set, "
            f"but only one of the two has {first_few(differing)}; give the same of both"
        )
    order = [held_out.names.index(name) for name in names]
    return recipe.fit(held_out.probabilities[order], held_out.truth.targets, held_out.positions)
