"""Calibrate probabilities label by label, so that they match the observed frequencies."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit

from src.ensemble.blend import to_logits
from src.labels import LABELS

Calibration = Callable[[np.ndarray], np.ndarray]  # (N, 6) -> (N, 6)

MOST_TEMPERATURE = 20.0


@dataclass(frozen=True)
class Temperatures:
    """Divide logits by a temperature per label; above 1 it makes overconfident probabilities less extreme.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """

    values: np.ndarray  # (6,)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, 6) -> (N, 6)."""
        return np.asarray(expit(to_logits(probabilities) / self.values))


@dataclass(frozen=True)
class Platt:
    """Map the logits of each label by a rising line; its intercept corrects a prevalence that is too high or too low.

    Source: Platt, "Probabilistic outputs for support vector machines", Advances in Large Margin Classifiers, 1999.
    """

    slopes: np.ndarray  # (6,), above 0
    intercepts: np.ndarray  # (6,)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, 6) -> (N, 6)."""
        return np.asarray(expit(self.slopes * to_logits(probabilities) + self.intercepts))


@dataclass(frozen=True)
class Steps:
    """Map the probability of each label by a rising function, linear between points: x and y for each label."""

    points: list[tuple[np.ndarray, np.ndarray]] = field(repr=False)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, 6) -> (N, 6)."""
        columns = [np.interp(probabilities[:, j], x, y) for j, (x, y) in enumerate(self.points)]
        return np.stack(columns, axis=1)


def as_it_is(probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities without calibration."""
    return probabilities


def fit_temperatures(probabilities: np.ndarray, targets: np.ndarray) -> Temperatures:
    """Find each label's temperature of least log loss: (N, 6) twice. It is 1 for a label that is all 0 or all 1."""
    logits = to_logits(probabilities)
    values = np.ones(len(LABELS))
    for j in range(len(LABELS)):
        if not 0 < targets[:, j].sum() < len(targets):
            continue
        signed = np.where(targets[:, j] == 1, logits[:, j], -logits[:, j])
        # the loss is convex in the inverse temperature
        found = minimize_scalar(
            lambda inverse, signed=signed: -log_expit(inverse * signed).mean(),
            bounds=(1 / MOST_TEMPERATURE, MOST_TEMPERATURE),
            method="bounded",
            options={"xatol": 1e-6},
        )
        values[j] = 1 / found.x
    return Temperatures(values)


def fit_platt(probabilities: np.ndarray, targets: np.ndarray) -> Platt:
    """Find each label's line of least log loss: (N, 6) twice. It changes nothing for a label that is all 0 or all 1.

    As in Platt's paper, targets are not quite 0 and 1, but 1 / (n + 2) from them for n slices of their kind. Thus the
    slope is finite even for a label that a threshold separates perfectly.
    """
    logits = to_logits(probabilities)
    slopes, intercepts = np.ones(len(LABELS)), np.zeros(len(LABELS))
    for j in range(len(LABELS)):
        positives = int(targets[:, j].sum())
        if not 0 < positives < len(targets):
            continue
        aims = np.where(targets[:, j] == 1, 1 - 1 / (positives + 2), 1 / (len(targets) - positives + 2))
        middle = logits[:, j].mean()
        centred = logits[:, j] - middle  # so that slope and height hardly depend on each other

        def loss(line: np.ndarray, x: np.ndarray = centred, aims: np.ndarray = aims) -> tuple[float, np.ndarray]:
            z = line[0] * x + line[1]
            excess = expit(z) - aims
            return float(np.mean(np.logaddexp(0, z) - aims * z)), np.array([np.mean(excess * x), np.mean(excess)])

        bounds = [(1 / MOST_TEMPERATURE, MOST_TEMPERATURE), (None, None)]
        found = minimize(
            loss, [1.0, middle], jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}
        )
        slopes[j], intercepts[j] = found.x[0], found.x[1] - found.x[0] * middle
    return Platt(slopes, intercepts)


def fit_steps(probabilities: np.ndarray, targets: np.ndarray) -> Steps:
    """Fit isotonic regression to each label: (N, 6) twice.

    Its lowest step is often exactly 0, where a single missed bleed makes the loss infinite. Therefore no step is closer
    to 0 or 1 than the rule of succession (Laplace, 1774) allows after as many slices as the step has without an
    exception; where that would break the order, a step takes the value of the next one.

    Source: Zadrozny, Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.
    """
    from sklearn.isotonic import IsotonicRegression  # here: it takes a second to import, and is seldom needed

    points = []
    for j in range(len(LABELS)):
        fitted = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, j], targets[:, j])
        steps, counts = np.unique(np.round(fitted.predict(probabilities[:, j]), 12), return_counts=True)
        by_step = _no_surer(steps, counts)
        points.append((fitted.X_thresholds_, by_step[np.searchsorted(steps, fitted.y_thresholds_ - 1e-9)]))
    return Steps(points)


def _no_surer(steps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rising steps (S,), none closer to 0 or 1 than 1 / (its count + 2), and still rising."""
    surest = 1 / (counts + 2)
    low = np.minimum.accumulate(np.maximum(steps, surest)[::-1])[::-1]
    high = np.maximum.accumulate(np.minimum(steps, 1 - surest))
    return np.where(steps < 0.5, low, high)


# the choices of --calibrate: from probabilities (N, 6) and targets (N, 6) to a calibration
CALIBRATIONS: dict[str, Callable[[np.ndarray, np.ndarray], Calibration]] = {
    "none": lambda probabilities, targets: as_it_is,
    "temperature": fit_temperatures,
    "platt": fit_platt,
    "isotonic": fit_steps,
}
