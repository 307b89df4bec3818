"""From members to a bag by blending, smoothing and calibrating: fitted out of fold, judged on folds it did not see."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.ensemble.blend import BLENDS, Blend
from src.ensemble.calibrate import CALIBRATIONS, Calibration, Temperatures
from src.ensemble.smooth import choose_sigma, smooth
from src.errors import UserError
from src.files.places import Places
from src.labels import LABELS


@dataclass(frozen=True)
class Fitted:
    """A recipe that knows its numbers: members' probabilities in, the bag's out."""

    blend: Blend
    smooth_mm: float
    calibration: Calibration

    def __call__(self, probabilities: np.ndarray, places: Places) -> np.ndarray:
        """(M, N, 6) -> (N, 6). places: of the N slices."""
        return self.calibration(smooth(self.blend(probabilities), places, self.smooth_mm))

    def describe(self, members: list[str]) -> dict[str, Any]:
        """Its numbers, for people and for a manifest."""
        said: dict[str, Any] = {
            "weights": {name: float(weight) for name, weight in zip(members, self.blend.weights, strict=True)},
            "smooth_mm": self.smooth_mm,
        }
        if isinstance(self.calibration, Temperatures):
            said["temperatures"] = dict(zip(LABELS, self.calibration.values.tolist(), strict=True))
        return said


@dataclass(frozen=True)
class Recipe:
    """What was asked for. blend: of BLENDS; smooth_mm: of a Gaussian, None to choose it; calibrate: of CALIBRATIONS."""

    blend: str = "mean"
    smooth_mm: float | None = 0.0
    calibrate: str = "none"

    @property
    def fits(self) -> bool:
        """Whether it has numbers that out-of-fold predictions decide."""
        return self.blend == "weights" or self.smooth_mm is None or self.calibrate != "none"

    @property
    def name(self) -> str:
        """In words."""
        smoothing = "auto" if self.smooth_mm is None else f"{self.smooth_mm:g} mm"
        parts = [self.blend, f"smooth {smoothing}" if self.smooth_mm != 0 else "", self.calibrate]
        return ", ".join(part for part in parts if part not in ("", "none"))

    def fit(self, probabilities: np.ndarray, targets: np.ndarray, places: Places) -> Fitted:
        """Find its numbers. probabilities: out of fold, (M, N, 6); targets: (N, 6); places: of the N slices.

        A recipe that fits nothing is content with N = 0.
        """
        blend = BLENDS[self.blend](probabilities, targets)
        blended = blend(probabilities)
        sigma = choose_sigma(blended, targets, places) if self.smooth_mm is None else self.smooth_mm
        smoothed = smooth(blended, places, sigma)
        return Fitted(blend, sigma, CALIBRATIONS[self.calibrate](smoothed, targets))

    def cross_fit(
        self, probabilities: np.ndarray, targets: np.ndarray, places: Places, folds: np.ndarray
    ) -> np.ndarray:
        """The bag out of fold, (N, 6): each fold by a fit on the others, so that no number saw what it is judged on.

        folds: (N,). Raises UserError for a recipe that fits where there is one fold alone.
        """
        if not self.fits:
            return self.fit(probabilities, targets, places)(probabilities, places)
        existing = np.unique(folds)
        if len(existing) < 2:
            raise UserError(
                f"{self.name} is fitted on some folds and judged on others, but fold {existing[0]} alone is predicted; "
                "predict more folds, or take what fits nothing: --blend mean, --calibrate none and a --smooth in mm"
            )
        bagged = np.empty(probabilities.shape[1:])
        for fold in existing:
            inside, outside = folds == fold, folds != fold
            fitted = self.fit(probabilities[:, outside], targets[outside], places.take(outside))
            bagged[inside] = fitted(probabilities[:, inside], places.take(inside))
        return bagged
