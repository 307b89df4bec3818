"""Compare out-of-fold predictions: log losses and their differences, with confidence intervals over patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.ensemble.assemble import OutOfFold, read_out_of_fold
from src.ensemble.recipe import Recipe
from src.ensemble.scores import score_table
from src.errors import UserError, first_few, run_command
from src.evaluate.intervals import PLAIN, PatientRatios, interval, jackknife
from src.evaluate.out_of_fold import Truth, read_truth
from src.evaluate.score import log_losses
from src.files.atomic import replacing
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.labels import LABELS, WEIGHTS
from src.text_table import markdown_table

SMOOTHED = Recipe(smooth_mm=None)


@dataclass(frozen=True)
class Candidates:
    """Probabilities (N, 6) by name, of the same N slices."""

    truth: Truth
    probabilities: Mapping[str, np.ndarray]


def read_candidates(files: Mapping[str, Sequence[Path]], smoothed: Sequence[str], layout: Layout) -> Candidates:
    """The bag of each candidate's out-of-fold files, and for those named in `smoothed` also the bag smoothed along z.

    Raises UserError for files that are not out of fold, and for candidates with other slices than the first one.
    """
    truth = read_truth(layout)
    first: OutOfFold | None = None
    probabilities: dict[str, np.ndarray] = {}
    for name, paths in files.items():
        found = read_out_of_fold([read_predictions(path) for path in paths], truth, layout.table("train"))
        first = first or found
        rows = found.truth.ids.get_indexer(first.truth.ids)
        if (rows < 0).any() or len(found.truth) != len(first.truth):
            lacking = first.truth.ids.symmetric_difference(found.truth.ids)
            raise UserError(
                f"{name} and {next(iter(files))} predict different slices, such as {first_few(lacking)}; predict the "
                "same folds with both"
            )
        probabilities[name] = found.probabilities.mean(axis=0)[rows]
        if name in smoothed:
            smooth = SMOOTHED.cross_fit(found.probabilities, found.truth.targets, found.positions, found.truth.folds)
            probabilities[f"{name}, smoothed"] = smooth[rows]
    assert first is not None  # noqa: S101 - argparse asks for one
    return Candidates(first.truth, probabilities)


def differences(candidates: Candidates) -> pd.DataFrame:
    """The difference of each candidate's log loss from that of each before it, in percent of the latter.

    Columns: `candidate`, `than`, `label` ("weighted" and LABELS), `percent`, negative if the candidate is better, and
    `low` and `high`, the ends of the 95 % interval over patients. Both are scored without the same patients, so that
    cases that are hard for both cancel out.
    """
    targets, patients = candidates.truth.targets, np.unique(candidates.truth.patients, return_inverse=True)[1]
    losses = {name: _with_weighted(log_losses(targets, each)) for name, each in candidates.probabilities.items()}
    n_patients, labels, tables = int(patients.max()) + 1, ["weighted", *LABELS], []
    for than, candidate in combinations(losses, 2):
        relative = PatientRatios(losses[candidate] - losses[than], losses[than], patients)
        value = relative(np.ones(n_patients, dtype=np.int64))
        left_out = jackknife(relative, n_patients, desc=f"{candidate} - {than}")
        low, high = interval(value, left_out, PLAIN, n_patients)
        numbers = {"percent": 100 * value, "low": 100 * low, "high": 100 * high}
        tables.append(pd.DataFrame({"candidate": candidate, "than": than, "label": labels, **numbers}))
    return pd.concat(tables, ignore_index=True)


def _with_weighted(losses: np.ndarray) -> np.ndarray:
    """Put the weighted loss of each slice before those of the labels: (N, 6) -> (N, 7)."""
    return np.column_stack([np.average(losses, axis=1, weights=WEIGHTS), losses])


def report(candidates: Candidates, found: pd.DataFrame) -> str:
    """Format both tables in Markdown: the log losses and their differences."""
    scores = score_table(candidates.truth.targets, candidates.probabilities)
    rows = [["log loss", *scores.columns], *([name, *map("{:.4f}".format, row)] for name, row in scores.iterrows())]
    lines = [*markdown_table(rows), ""]
    rows = [["difference in %", *scores.columns]]
    for (than, candidate), pair in found.groupby(["than", "candidate"], sort=False):
        cells = [f"{each.percent:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in pair.itertuples()]
        rows.append([f"{candidate} than {than}", *cells])
    return "\n".join([*lines, *markdown_table(rows)])


def main() -> None:
    """Read the arguments, compare, and report."""
    parser = Parser(
        prog="python -m src.ensemble.compare",
        description=__doc__,
        epilog="example: python -m src.ensemble.compare "
        "--candidate CNN model/efficientnet-b2/fold*/valid_epoch[23].parquet --smooth CNN "
        "--candidate GRU model/efficientnet-b2+gru/fold*/valid_epoch*.parquet",
    )
    parser.add_argument(
        "--candidate",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "FILE"),
        help="a name, and the out-of-fold prediction files that are bagged under it; can be repeated",
    )
    parser.add_argument(
        "--smooth", nargs="*", default=[], metavar="NAME", help="candidates whose smoothed bag is also compared"
    )
    parser.add_root()
    parser.add_argument("--output", type=Path, metavar="CSV", help="also write the differences to this file")
    args = parser.parse_args()
    files = {name: [Path(each) for each in paths] for name, *paths in args.candidate}
    if len(files) < len(args.candidate) or not all(files.values()):
        parser.error("--candidate: expected different names, each with a prediction file at least")
    unknown = [name for name in args.smooth if name not in files]
    if unknown:
        parser.error(f"--smooth: no candidate is called {first_few(unknown)}")
    candidates = read_candidates(files, args.smooth, Layout(args.root))
    found = differences(candidates)
    truth = candidates.truth
    print(f"{len(truth)} slices of {len(np.unique(truth.patients))} patients, out of fold\n")
    print(report(candidates, found))
    if args.output is not None:
        with replacing(args.output) as temporary:
            found.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_command(main)
