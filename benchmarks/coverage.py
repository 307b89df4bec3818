"""How often 95 % intervals hold the truth, and how wide they are: the jackknife's and three bootstraps' over patients.

    python -m benchmarks.coverage

Simulated head CTs: half of the patients bleed, in a part of their slices, and some patients are harder than others, so
that slices of a patient err together. The truth is the value over 200,000 patients.

- percentile: whole patients are drawn. Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
- Bayesian: each patient has an exponential weight. Rubin, Annals of Statistics 9, 1981.
- BCa: the bootstrap's percentiles, corrected for bias and skewness. Efron, J. Am. Stat. Assoc. 82, 1987.
- jackknife: what src/evaluate/intervals.py does.

All but the first have Wilson's interval where a proportion is exactly 0 or 1.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from benchmarks.measure import machine, table
from src.evaluate.intervals import (
    LEVEL,
    LOG,
    PLAIN,
    PatientRatios,
    Ranking,
    effective_number,
    interval,
    jackknife,
    proportion_interval,
    sums_by_patient,
    wilson,
)
from src.evaluate.score import log_losses
from src.labels import SUBTYPES, WEIGHTS

STATISTICS = ("weighted log loss", "AUC", "average precision", "sensitivity", "difference in %")
METHODS = ("percentile", "Bayesian", "BCa", "jackknife")
OF_PATIENTS = (0.02, 0.13, 0.10, 0.13, 0.13)  # the fraction of patients with each subtype
THRESHOLD = 0.3
TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
PROPORTIONS = slice(1, 4)  # in STATISTICS


@dataclass(frozen=True)
class Heads:
    """Simulated patients. counts: of each patient, the cases that the three proportions depend on, (P, 3)."""

    ratios: PatientRatios
    ranking: Ranking
    counts: np.ndarray

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """STATISTICS of two models on the same slices, with each patient counted as often as `weights` gives: (5,)."""
        loss, sensitivity, difference = self.ratios(weights)
        return np.array([loss, *self.ranking(weights), sensitivity, 100 * difference])


def simulate(n_patients: int, separation: float, rng: np.random.Generator) -> Heads:
    """Draw patients of 6 to 14 slices. separation: of the logits of slices with and without a label."""
    patients = np.repeat(np.arange(n_patients), rng.integers(6, 15, size=n_patients))
    bleeds = (rng.random((n_patients, len(SUBTYPES))) < OF_PATIENTS)[patients]
    bleeds &= rng.random(bleeds.shape) < 0.4
    targets = np.column_stack([bleeds.any(axis=1), bleeds]).astype(np.uint8)
    hardness = rng.normal(size=(n_patients, len(WEIGHTS)))  # the same for both models

    def predict() -> np.ndarray:
        own = 0.6 * rng.normal(size=hardness.shape)
        noise = (hardness + own)[patients] + 0.8 * rng.normal(size=targets.shape)
        return np.asarray(expit(separation * (targets - 1 / 3) - 1.6 + noise))

    one, other = predict(), predict()
    losses = [np.average(log_losses(targets, each), axis=1, weights=WEIGHTS) for each in (one, other)]
    positive, everyone = targets[:, 0] == 1, np.ones(len(targets))
    above = [losses[0], (one[:, 0] >= THRESHOLD) & positive, losses[1] - losses[0]]
    ratios = PatientRatios(np.stack(above, axis=1), np.stack([everyone, positive, losses[0]], axis=1), patients)
    kinds = sums_by_patient(np.stack([positive, ~positive], axis=1), patients)
    rarer = kinds[:, np.argmin((kinds > 0).sum(axis=0))]
    counts = np.stack([rarer, rarer, kinds[:, 0]], axis=1)
    return Heads(ratios, Ranking(targets[:, 0], one[:, 0], patients), counts)


def intervals(heads: Heads, resamples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The ends of the intervals by each method, (2, 5); NaN where a statistic is not defined."""
    n = len(heads.counts)
    value, left_out = heads(np.ones(n, dtype=np.int64)), jackknife(heads, n)
    drawn = np.stack([heads(np.bincount(rng.integers(n, size=n), minlength=n)) for _ in range(resamples)])
    # whole numbers, since running sums are of these; a millionth of a patient's weight is lost
    weighted = np.stack([heads((2**20 * rng.exponential(size=n)).astype(np.int64)) for _ in range(resamples)])
    found = {
        "percentile": _quantiles(drawn, np.tile(TAILS[:, None], len(STATISTICS))),
        "Bayesian": _quantiles(weighted, np.tile(TAILS[:, None], len(STATISTICS))),
        "BCa": _quantiles(drawn, _bca_levels(value, drawn, left_out)),
    }
    ends = [interval(value[i], left_out[:, i], scale, n) for i, scale in ((0, LOG), (-1, PLAIN))]
    proportions = np.stack(proportion_interval(value[PROPORTIONS], left_out[:, PROPORTIONS], heads.counts))
    found["jackknife"] = np.column_stack([ends[0], proportions, ends[1]])
    sure = np.isin(value[PROPORTIONS], (0, 1))
    by_wilson = np.stack(wilson(value[PROPORTIONS], effective_number(heads.counts)))
    for name in ("Bayesian", "BCa"):
        found[name][:, PROPORTIONS] = np.where(sure, by_wilson, found[name][:, PROPORTIONS])
    return {name: np.where(np.isnan(value), np.nan, each) for name, each in found.items()}


def _quantiles(resampled: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of each column without its NaN: (R, K), levels (2, K) -> (2, K)."""
    columns = zip(resampled.T, levels.T, strict=True)
    known = ((each[~np.isnan(each)], level) for each, level in columns)
    return np.stack([np.quantile(each, level) if len(each) else np.full(2, np.nan) for each, level in known], axis=1)


def _bca_levels(value: np.ndarray, drawn: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The levels that BCa takes for 0.025 and 0.975: (K,), (R, K), (G, K) -> (2, K)."""
    below = np.nanmean((drawn < value) + (drawn == value) / 2, axis=0)
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    deviation = np.nanmean(left_out, axis=0) - left_out
    squares = np.nansum(deviation**2, axis=0)
    acceleration = np.nansum(deviation**3, axis=0) / np.maximum(6 * squares**1.5, 1e-300)
    shifted = bias + norm.ppf(TAILS)[:, None]
    return np.asarray(norm.cdf(bias + shifted / (1 - acceleration * shifted)))


def measure(
    n_patients: int, truth: np.ndarray, simulations: int, resamples: int, separation: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Coverage and mean width of each method over the simulations in which a statistic is defined: (5,) each."""
    rng = np.random.default_rng(n_patients)
    ends = defaultdict(list)
    for _ in range(simulations):
        for name, each in intervals(simulate(n_patients, separation, rng), resamples, rng).items():
            ends[name].append(each)
    low, high = ({name: np.stack(each)[:, end] for name, each in ends.items()} for end in (0, 1))
    coverage = {
        name: np.nanmean(np.where(np.isnan(low[name]), np.nan, (low[name] <= truth) & (truth <= high[name])), axis=0)
        for name in METHODS
    }
    return coverage, {name: np.nanmean(high[name] - low[name], axis=0) for name in METHODS}


def main() -> None:
    """Read arguments, simulate, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.split("\n")[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[20, 40, 120, 1000], help="(default %(default)s)")
    parser.add_argument("--simulations", type=int, default=1000, help="of each number (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=400, help="of the bootstraps (default %(default)s)")
    parser.add_argument("--separation", type=float, default=3.5, help="how good the models are (default %(default)s)")
    args = parser.parse_args()
    started, rng = time.process_time(), np.random.default_rng(0)
    parts = [simulate(40_000, args.separation, rng)(np.ones(40_000, dtype=np.int64)) for _ in range(5)]
    truth = np.mean(parts, axis=0)
    rows: tuple[list[tuple[object, ...]], list[tuple[object, ...]]] = ([], [])
    for n_patients in args.patients:
        measured = measure(n_patients, truth, args.simulations, args.resamples, args.separation)
        for each, found, digits in zip(rows, measured, (3, 4), strict=True):
            each += [(n_patients, name, *(f"{value:.{digits}f}" for value in found[name])) for name in METHODS]
    error = (LEVEL * (1 - LEVEL) / args.simulations) ** 0.5
    print(f"{machine()}; {time.process_time() - started:.0f} s of one core")
    print("the truth: " + ", ".join(f"{name} {value:.4f}" for name, value in zip(STATISTICS, truth, strict=True)))
    columns = ("patients", "method", *STATISTICS)
    title = f"Coverage of 95 % intervals, {args.simulations} simulations each (Monte Carlo error {error:.3f})"
    table(f"{title}, {args.resamples} resamples", columns, rows[0])
    table("Mean width", columns, rows[1])


if __name__ == "__main__":
    main()
