"""From prediction files to one prediction of the test set, and what the same would have scored out of fold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.ensemble.bag import Member, aligned, on_common_slices, out_of_fold_members, test_members
from src.ensemble.fill import fill_from_store
from src.ensemble.recipe import Fitted, Recipe
from src.ensemble.scores import by_classifier, correlation_table, score_table
from src.errors import UserError, first_few
from src.evaluate.out_of_fold import Truth, check_out_of_fold
from src.evaluate.score import constant_prior, weighted_log_loss
from src.files.layout import Layout
from src.files.places import Places, read_places
from src.files.predictions import Predictions
from src.labels import LABELS


@dataclass(frozen=True)
class OutOfFold:
    """M members on the N training slices that all of them predict: names (M,), probabilities (M, N, 6)."""

    names: list[str]
    probabilities: np.ndarray
    truth: Truth
    places: Places


@dataclass(frozen=True)
class Judged:
    """What a recipe would have scored: its bag out of fold, log losses by name, and how alike the members are.

    better_alone: the best member, where that would have scored better by itself.
    """

    bagged: Member
    scores: pd.DataFrame
    correlations: pd.DataFrame
    better_alone: str | None


def read_out_of_fold(predictions: Sequence[Predictions], truth: Truth, table: Path | None) -> OutOfFold:
    """Members from out-of-fold files. table: cache/train.parquet, which says where slices lie; None: nobody asks.

    Raises UserError for files that are not out of fold, and where members have no slice in common.
    """
    members = out_of_fold_members(predictions)
    check_out_of_fold(predictions, truth)
    ids, probabilities = aligned(on_common_slices(members))
    places = Places.unknown(len(ids)) if table is None else read_places(table, ids)
    return OutOfFold([each.name for each in members], probabilities, truth.of(ids), places)


def judge(held_out: OutOfFold, recipe: Recipe) -> Judged:
    """Score each member, each classifier, the plain bag, what the recipe makes of it, and the constant prior.

    The recipe's numbers come from other folds than those that they are judged on.
    """
    probabilities, targets, folds = held_out.probabilities, held_out.truth.targets, held_out.truth.folds
    bagged = recipe.cross_fit(probabilities, targets, held_out.places, folds)
    rivals = dict(zip(held_out.names, probabilities, strict=True)) | by_classifier(held_out.names, probabilities)
    rivals["bag"] = probabilities.mean(axis=0)
    if recipe != Recipe():
        rivals[recipe.name] = bagged
    rivals["constant prior"] = constant_prior(targets)
    scores = score_table(targets, rivals)
    best = scores.loc[held_out.names, "weighted"].idxmin()
    return Judged(
        Member("out of fold", held_out.truth.ids, bagged),
        scores,
        correlation_table(held_out.names, probabilities),
        best if scores.loc[best, "weighted"] < weighted_log_loss(targets, bagged) else None,
    )


def require_same_networks(predictions: Sequence[Predictions], out_of_fold: Sequence[Predictions]) -> None:
    """Raise UserError where a network's out-of-fold file and its test file are by other weights or in other views."""
    held_out = {(o.conf, o.fold, o.epoch): each for each in out_of_fold if (o := each.origin) is not None}
    for each in predictions:
        origin = each.origin
        other = None if origin is None else held_out.get((origin.conf, origin.fold, origin.epoch))
        if origin is None or other is None or other.origin is None:
            continue
        if (origin.checkpoint, origin.views) != (other.origin.checkpoint, other.origin.views):
            raise UserError(
                f"{each.path} and {other.path} are by other weights or in other views; run bin/predict.sh again"
            )


def loss_by_network(predictions: Sequence[Predictions], truth: Truth) -> dict[tuple[str, int, int], float]:
    """The weighted log loss of each out-of-fold file on its own slices, by conf, fold and epoch."""
    return {
        (each.origin.conf, each.origin.fold, each.origin.epoch): weighted_log_loss(
            truth.of(pd.Index(each.ids)).targets, each.probabilities
        )
        for each in predictions
        if each.origin is not None
    }


def assemble(
    predictions: Sequence[Predictions], recipe: Recipe, held_out: OutOfFold | None, layout: Layout | None
) -> tuple[Member, dict[str, Any]]:
    """Put prediction files of the test set together as a recipe says: (the bag, the recipe's numbers).

    held_out: where these come from. layout: what preprocessing made, which smoothing needs. Raises UserError where the
    recipe needs what is not given, and where files of a member predict different slices.
    """
    members = test_members(predictions)
    ids, probabilities = aligned(members)
    names = [each.name for each in members]
    fitted = _fit(recipe, names, held_out)
    if recipe.smooth_mm == 0:
        places = Places.unknown(len(ids))
    elif layout is None:
        raise UserError("--smooth needs to know where slices lie: give --root")
    else:
        places = read_places(layout.table("test"), ids)
    return Member("bag", ids, fitted(probabilities, places)), fitted.describe(names)


def fill(bagged: Member, wanted: pd.Index, layout: Layout | None) -> tuple[Member, Counter[str]]:
    """Fill wanted slices that preprocessing rejected, where it is known which: (all slices, how many from what)."""
    return (bagged, Counter()) if layout is None else fill_from_store(bagged, wanted, layout)


def _fit(recipe: Recipe, names: list[str], held_out: OutOfFold | None) -> Fitted:
    if not recipe.fits:
        nothing = np.empty((len(names), 0, len(LABELS)))
        return recipe.fit(nothing, nothing[0], Places.unknown(0))
    if held_out is None:
        raise UserError(f"{recipe.name}: its numbers come from out-of-fold predictions: give --out-of-fold")
    differing = sorted({*names} ^ {*held_out.names})
    if differing:
        raise UserError(
            f"{recipe.name}: its numbers come from out-of-fold predictions by the networks that predict the test set, "
            f"but only one of the two has {first_few(differing)}; give the same of both"
        )
    order = [held_out.names.index(name) for name in names]
    return recipe.fit(held_out.probabilities[order], held_out.truth.targets, held_out.places)
