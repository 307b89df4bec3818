"""Make a bag of members by blending, smoothing, calibrating and more, fitted on some folds and scored on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.blend import BLENDS, Blend
from src.ensemble.calibrate import CALIBRATIONS, Calibration, Platt, Steps, Temperatures, as_it_is
from src.ensemble.consistent import make_consistent
from src.ensemble.smooth import choose_sigma, smooth
from src.errors import UserError
from src.files.slice_positions import SlicePositions
from src.labels import LABELS


class OneFoldAlone(UserError):  # noqa: N818 - it names the state of the predictions
    """A recipe that is fitted on some folds and scored on others was given only one fold."""


@dataclass(frozen=True)
class Fitted:
    """A recipe with its fitted numbers, which turns the probabilities of members into those of the bag."""

    blend: Blend
    smooth_mm: float
    calibration: Calibration
    consistent: bool = False

    def __call__(self, probabilities: np.ndarray, positions: SlicePositions) -> np.ndarray:
        """(M, N, 6) -> (N, 6). positions: of the N slices."""
        calibrated = self.calibration(smooth(self.blend(probabilities), positions, self.smooth_mm))
        return make_consistent(calibrated) if self.consistent else calibrated

    def describe(self, members: list[str]) -> dict[str, Any]:
        """All its numbers, for a report, a manifest and a detector; `from_numbers` restores the recipe from them."""
        numbers: dict[str, Any] = {
            "weights": {name: float(weight) for name, weight in zip(members, self.blend.weights, strict=True)},
            "smooth_mm": self.smooth_mm,
        }
        if isinstance(self.calibration, Temperatures):
            numbers["temperatures"] = dict(zip(LABELS, self.calibration.values.tolist(), strict=True))
        if isinstance(self.calibration, Platt):
            numbers["slopes"] = dict(zip(LABELS, self.calibration.slopes.tolist(), strict=True))
            numbers["intercepts"] = dict(zip(LABELS, self.calibration.intercepts.tolist(), strict=True))
        if isinstance(self.calibration, Steps):
            points = [{"x": x.tolist(), "y": y.tolist()} for x, y in self.calibration.points]
            numbers["isotonic"] = dict(zip(LABELS, points, strict=True))
        return numbers

    @classmethod
    def from_numbers(cls, recipe: "Recipe", members: Sequence[str], numbers: Mapping[str, Any]) -> "Fitted":
        """Restore a recipe from the numbers of `describe`. Raises KeyError or TypeError if some are missing."""
        weights = np.array([numbers["weights"][name] for name in members], dtype=np.float64)
        smooth_mm = float(numbers["smooth_mm"])
        if recipe.blend not in BLENDS or recipe.calibrate not in CALIBRATIONS:
            raise ValueError(f"a recipe of blend {recipe.blend} and calibration {recipe.calibrate} is unknown")
        if not (weights >= 0).all() or not np.isclose(weights.sum(), 1) or not 0 <= smooth_mm < float("inf"):
            raise ValueError(f"weights {weights.tolist()} or smoothing {smooth_mm} mm make no bag")
        calibration: Calibration = as_it_is
        if recipe.calibrate == "temperature":
            calibration = Temperatures(np.array([numbers["temperatures"][label] for label in LABELS]))
        elif recipe.calibrate == "platt":
            slopes, intercepts = (
                np.array([numbers[name][label] for label in LABELS], dtype=np.float64)
                for name in ("slopes", "intercepts")
            )
            if not (slopes > 0).all() or not np.isfinite([slopes, intercepts]).all():
                raise ValueError(f"slopes {slopes.tolist()} and intercepts {intercepts.tolist()} are no rising lines")
            calibration = Platt(slopes, intercepts)
        elif recipe.calibrate == "isotonic":
            points = [numbers["isotonic"][label] for label in LABELS]
            calibration = Steps([(np.array(each["x"]), np.array(each["y"])) for each in points])
        blend = Blend(weights, of_logits=recipe.blend == "logit-mean")
        return cls(blend, smooth_mm, calibration, recipe.consistent)


@dataclass(frozen=True)
class Recipe:
    """How members are combined.

    blend: a key of BLENDS; smooth_mm: standard deviation of the Gaussian along z, None to choose it; calibrate: a key
    of CALIBRATIONS; consistent: whether `any` is made at least as probable as each subtype, which records of earlier
    versions do not mention, because they did not do it.
    """

    blend: str = "mean"
    smooth_mm: float | None = 0.0
    calibrate: str = "none"
    consistent: bool = False

    @property
    def fits(self) -> bool:
        """Whether any of its numbers are fitted on out-of-fold predictions."""
        return self.blend == "weights" or self.smooth_mm is None or self.calibrate != "none"

    @property
    def name(self) -> str:
        """The recipe in words, for tables and messages."""
        smoothing = "auto" if self.smooth_mm is None else f"{self.smooth_mm:g} mm"
        parts = [self.blend, f"smooth {smoothing}" if self.smooth_mm != 0 else "", self.calibrate]
        parts += ["consistent"] if self.consistent else []
        return ", ".join(part for part in parts if part not in ("", "none"))

    def fit(self, probabilities: np.ndarray, targets: np.ndarray, positions: SlicePositions) -> Fitted:
        """Fit its numbers. probabilities: out of fold, (M, N, 6); targets: (N, 6); positions: of the N slices.

        N may be 0 for a recipe that fits nothing.
        """
        blend = BLENDS[self.blend](probabilities, targets)
        blended = blend(probabilities)
        sigma = choose_sigma(blended, targets, positions) if self.smooth_mm is None else self.smooth_mm
        smoothed = smooth(blended, positions, sigma)
        return Fitted(blend, sigma, CALIBRATIONS[self.calibrate](smoothed, targets), self.consistent)

    def cross_fit(
        self, probabilities: np.ndarray, targets: np.ndarray, positions: SlicePositions, folds: np.ndarray
    ) -> np.ndarray:
        """The out-of-fold bag, (N, 6): each fold by a fit on the others, so fitting and scoring use different slices.

        folds: (N,). Raises OneFoldAlone for a recipe that fits numbers if there is only one fold.
        """
        if not self.fits:
            return self.fit(probabilities, targets, positions)(probabilities, positions)
        existing = np.unique(folds)
        if len(existing) < 2:
            raise OneFoldAlone(
                f"{self.name} is fitted on some folds and scored on others, but fold {existing[0]} alone is predicted; "
                "predict more folds"
            )
        bagged = np.empty(probabilities.shape[1:])
        for fold in existing:
            inside, outside = folds == fold, folds != fold
            fitted = self.fit(probabilities[:, outside], targets[outside], positions.take(outside))
            bagged[inside] = fitted(probabilities[:, inside], positions.take(inside))
        return bagged
