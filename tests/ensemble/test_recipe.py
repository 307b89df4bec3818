import json

import numpy as np
import pytest
from scipy.special import expit

from src.ensemble.blend import BLENDS
from src.ensemble.calibrate import CALIBRATIONS
from src.ensemble.consistent import make_consistent
from src.ensemble.recipe import Fitted, Recipe
from src.ensemble.smooth import smooth
from src.errors import UserError
from src.evaluate.score import weighted_log_loss
from src.files.slice_positions import SlicePositions
from src.labels import LABELS

N, FOLDS = 600, np.repeat(np.arange(5), 120)
RNG = np.random.default_rng(0)
TARGETS = np.repeat(RNG.random((N // 4, 6)) < 0.3, 4, axis=0).astype(np.uint8)
# the members err together, and the second one by itself too
NOISE = 0.8 * RNG.normal(size=(N, 6)) + RNG.normal(size=(2, N, 6)) * np.array([0.1, 0.8])[:, None, None]
PROBABILITIES = expit(8 * ((TARGETS * 2.0 - 1) + NOISE))  # overconfident
POSITIONS = SlicePositions(np.repeat(np.arange(N // 20), 20), np.tile(np.arange(20) * 5.0, N // 20))

RECIPES = [
    Recipe("mean"),
    Recipe("logit-mean", 5.0),
    Recipe("weights"),
    Recipe("mean", None),
    Recipe("mean", 0.0, "temperature"),
    Recipe("weights", None, "isotonic"),
    Recipe("mean", 0.0, "platt"),
    Recipe("mean", 5.0, "temperature", consistent=True),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_fold_is_scored_by_a_fit_that_did_not_see_it(recipe: Recipe) -> None:
    bagged = recipe.cross_fit(PROBABILITIES, TARGETS, POSITIONS, FOLDS)
    for fold in range(5):
        # whatever its own labels say, a fold's prediction stays
        lying = np.where((fold == FOLDS)[:, None], 1 - TARGETS, TARGETS)
        again = recipe.cross_fit(PROBABILITIES, lying, POSITIONS, FOLDS)
        np.testing.assert_array_equal(again[fold == FOLDS], bagged[fold == FOLDS])
        if recipe.fits and recipe.smooth_mm is not None:  # and those of others matter; `auto` moves in steps
            assert (again[fold != FOLDS] != bagged[fold != FOLDS]).any()


@pytest.mark.parametrize("recipe", RECIPES[2:], ids=lambda recipe: recipe.name)
def test_what_is_fitted_helps_where_there_is_something_to_learn(recipe: Recipe) -> None:
    plain = weighted_log_loss(TARGETS, Recipe().cross_fit(PROBABILITIES, TARGETS, POSITIONS, FOLDS))
    assert weighted_log_loss(TARGETS, recipe.cross_fit(PROBABILITIES, TARGETS, POSITIONS, FOLDS)) < plain


def test_the_figure_of_a_fit_on_its_own_folds_is_too_good() -> None:
    # isotonic steps learn noise by heart; cross-fitting must not be fooled
    rng = np.random.default_rng(1)
    noise, targets = rng.random((1, N, 6)), (rng.random((N, 6)) < 0.3).astype(np.uint8)
    recipe = Recipe("mean", 0.0, "isotonic")
    fooled = weighted_log_loss(targets, recipe.fit(noise, targets, POSITIONS)(noise, POSITIONS))
    honest = weighted_log_loss(targets, recipe.cross_fit(noise, targets, POSITIONS, FOLDS))
    prior = weighted_log_loss(targets, np.full((N, 6), targets.mean()))
    assert fooled < prior < honest


def test_the_steps_come_in_their_order() -> None:
    fitted = Recipe("mean", 5.0, "temperature").fit(PROBABILITIES, TARGETS, POSITIONS)
    by_hand = fitted.calibration(smooth(PROBABILITIES.mean(axis=0), POSITIONS, 5.0))
    np.testing.assert_array_equal(fitted(PROBABILITIES, POSITIONS), by_hand)
    assert (by_hand[:, 0] < by_hand[:, 1:].max(axis=1)).any()
    last = Recipe("mean", 5.0, "temperature", consistent=True).fit(PROBABILITIES, TARGETS, POSITIONS)
    np.testing.assert_array_equal(last(PROBABILITIES, POSITIONS), make_consistent(by_hand))
    said = fitted.describe(["x", "y"])
    assert said["weights"] == {"x": 0.5, "y": 0.5}
    assert said["smooth_mm"] == 5.0
    assert list(said["temperatures"]) == list(LABELS)
    overconfident = Recipe("mean", 0.0, "temperature").fit(PROBABILITIES, TARGETS, POSITIONS).describe(["x", "y"])
    assert all(value > 1 for value in overconfident["temperatures"].values())


def test_one_fold_scores_nothing_that_is_fitted() -> None:
    alone = np.zeros(N, dtype=int)
    with pytest.raises(UserError, match=r"weights, smooth auto, isotonic is fitted on some folds .* but fold 0 alone"):
        Recipe("weights", None, "isotonic").cross_fit(PROBABILITIES, TARGETS, POSITIONS, alone)
    Recipe("logit-mean", 5.0).cross_fit(PROBABILITIES, TARGETS, POSITIONS, alone)


def test_names() -> None:
    assert [recipe.name for recipe in RECIPES] == [
        "mean",
        "logit-mean, smooth 5 mm",
        "weights",
        "mean, smooth auto",
        "mean, temperature",
        "weights, smooth auto, isotonic",
        "mean, platt",
        "mean, smooth 5 mm, temperature, consistent",
    ]
    assert [recipe.fits for recipe in RECIPES] == [False, False, True, True, True, True, True, True]


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("calibrate", CALIBRATIONS)
@pytest.mark.parametrize("smooth_mm", [0.0, 5.0, None])
@pytest.mark.parametrize("blend", BLENDS)
def test_its_numbers_make_it_again(blend: str, smooth_mm: float | None, calibrate: str, consistent: bool) -> None:
    recipe = Recipe(blend, smooth_mm, calibrate, consistent)
    fitted = recipe.fit(PROBABILITIES, TARGETS, POSITIONS)
    numbers = json.loads(json.dumps(fitted.describe(["x", "y"])))
    again = Fitted.from_numbers(recipe, ["x", "y"], numbers)
    rng = np.random.default_rng(2)
    others = rng.random((2, N, 6))  # not those that it was fitted on
    others[:, :2] = [[0.0], [1.0]]
    for probabilities in (PROBABILITIES, others):
        np.testing.assert_array_equal(again(probabilities, POSITIONS), fitted(probabilities, POSITIONS))
    swapped = Fitted.from_numbers(recipe, ["y", "x"], numbers)
    np.testing.assert_allclose(swapped(others[::-1], POSITIONS), fitted(others, POSITIONS), rtol=1e-12)
    assert again.describe(["x", "y"]) == fitted.describe(["x", "y"])


def test_lines_that_do_not_rise_are_refused() -> None:
    recipe = Recipe("mean", 0.0, "platt")
    numbers = recipe.fit(PROBABILITIES, TARGETS, POSITIONS).describe(["x", "y"])
    assert list(numbers["slopes"]) == list(numbers["intercepts"]) == list(LABELS)
    for name, value in (("slopes", 0.0), ("slopes", -1.0), ("slopes", np.inf), ("intercepts", np.nan)):
        with pytest.raises(ValueError, match="are no rising lines"):
            Fitted.from_numbers(recipe, ["x", "y"], numbers | {name: numbers[name] | {"any": value}})
    for name in ("slopes", "intercepts"):
        with pytest.raises(KeyError):
            Fitted.from_numbers(recipe, ["x", "y"], {key: each for key, each in numbers.items() if key != name})


def test_numbers_that_are_missing_are_not_made_up() -> None:
    recipe = Recipe("weights", 5.0, "temperature")
    numbers = recipe.fit(PROBABILITIES, TARGETS, POSITIONS).describe(["x", "y"])
    for name in ("weights", "smooth_mm", "temperatures"):
        with pytest.raises(KeyError):
            Fitted.from_numbers(recipe, ["x", "y"], {key: each for key, each in numbers.items() if key != name})
    with pytest.raises(KeyError):
        Fitted.from_numbers(recipe, ["x", "z"], numbers)
    with pytest.raises(KeyError):
        Fitted.from_numbers(Recipe("weights", 5.0, "isotonic"), ["x", "y"], numbers)
