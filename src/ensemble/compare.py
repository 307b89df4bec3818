"""Compare predictions out of fold: log losses and their differences, with intervals from a bootstrap over patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from src.arguments import Parser, positive
from src.ensemble.assemble import OutOfFold, read_out_of_fold
from src.ensemble.recipe import Recipe
from src.ensemble.scores import score_table
from src.errors import UserError, first_few, run_command
from src.evaluate.bootstrap import PatientRatios, interval, resample
from src.evaluate.out_of_fold import Truth, read_truth
from src.evaluate.score import log_losses
from src.files.atomic import replacing
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.labels import LABELS, WEIGHTS

SMOOTHED = Recipe(smooth_mm=None)


@dataclass(frozen=True)
class Rivals:
    """Probabilities (N, 6) by name, of the same N slices."""

    truth: Truth
    probabilities: Mapping[str, np.ndarray]


def read_rivals(files: Mapping[str, Sequence[Path]], smoothed: Sequence[str], layout: Layout) -> Rivals:
    """The bag of each rival's out-of-fold files; after those named in `smoothed`, what `--smooth auto` makes of it.

    Raises UserError for files that are not out of fold, and for rivals of other slices than the first one's.
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
            smooth = SMOOTHED.cross_fit(found.probabilities, found.truth.targets, found.places, found.truth.folds)
            probabilities[f"{name}, smoothed"] = smooth[rows]
    assert first is not None  # noqa: S101 - argparse asks for one
    return Rivals(first.truth, probabilities)


def differences(rivals: Rivals, *, resamples: int, seed: int) -> pd.DataFrame:
    """How far the log loss of each rival is from that of each before it, in percent of the latter's.

    Columns: `rival`, `than`, `label` ("weighted" and LABELS), `percent`, negative where the rival is better, and `low`
    and `high`, the ends of the 95 % interval over resampled patients: the same patients for both, so that what is hard
    for both cancels.
    """
    targets, patients = rivals.truth.targets, np.unique(rivals.truth.patients, return_inverse=True)[1]
    losses = {name: _with_weighted(log_losses(targets, each)) for name, each in rivals.probabilities.items()}
    n_patients, labels, tables = int(patients.max()) + 1, ["weighted", *LABELS], []
    for than, rival in combinations(losses, 2):
        relative = PatientRatios(losses[rival] - losses[than], losses[than], patients)
        low, high = interval(resample(relative, n_patients, resamples=resamples, seed=seed, desc=f"{rival} - {than}"))
        value = relative(np.ones(n_patients, dtype=np.int64))
        numbers = {"percent": 100 * value, "low": 100 * low, "high": 100 * high}
        tables.append(pd.DataFrame({"rival": rival, "than": than, "label": labels, **numbers}))
    return pd.concat(tables, ignore_index=True)


def _with_weighted(losses: np.ndarray) -> np.ndarray:
    """(N, 6) -> (N, 7): the metric of each slice, then the labels."""
    return np.column_stack([np.average(losses, axis=1, weights=WEIGHTS), losses])


def report(rivals: Rivals, found: pd.DataFrame) -> str:
    """Both tables in Markdown: log losses, and the differences."""
    scores = score_table(rivals.truth.targets, rivals.probabilities)
    rows = [["log loss", *scores.columns], *([name, *map("{:.4f}".format, row)] for name, row in scores.iterrows())]
    lines = [*_markdown(rows), ""]
    rows = [["difference in %", *scores.columns]]
    for (than, rival), pair in found.groupby(["than", "rival"], sort=False):
        cells = [f"{each.percent:+.1f} [{each.low:+.1f}, {each.high:+.1f}]" for each in pair.itertuples()]
        rows.append([f"{rival} than {than}", *cells])
    return "\n".join([*lines, *_markdown(rows)])


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def main() -> None:
    """Read arguments, compare, report."""
    parser = Parser(
        prog="python -m src.ensemble.compare",
        description=__doc__,
        epilog="example: python -m src.ensemble.compare "
        "--rival CNN model/efficientnet-b2/fold*/valid_epoch[23].parquet --smooth CNN "
        "--rival GRU model/efficientnet-b2+gru/fold*/valid_epoch*.parquet",
    )
    parser.add_argument(
        "--rival",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "FILE"),
        help="a name, and the out-of-fold prediction files that are bagged under it; may be given again",
    )
    parser.add_argument("--smooth", nargs="*", default=[], metavar="NAME", help="rivals to judge smoothed as well")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument("--resamples", type=positive, default=2000, help="of the patients (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default 0)")
    parser.add_argument("--output", type=Path, metavar="CSV", help="where to write the differences, too")
    args = parser.parse_args()
    files = {name: [Path(each) for each in paths] for name, *paths in args.rival}
    if len(files) < len(args.rival) or not all(files.values()):
        parser.error("--rival: expected different names, each with a prediction file at least")
    unknown = [name for name in args.smooth if name not in files]
    if unknown:
        parser.error(f"--smooth: no rival is called {first_few(unknown)}")
    rivals = read_rivals(files, args.smooth, Layout(args.root))
    found = differences(rivals, resamples=args.resamples, seed=args.seed)
    truth = rivals.truth
    print(f"{len(truth)} slices of {len(np.unique(truth.patients))} patients, out of fold\n")
    print(report(rivals, found))
    if args.output is not None:
        with replacing(args.output) as temporary:
            found.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_command(main)
