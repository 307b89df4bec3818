"""Put prediction files together into a submission, or check one: the same rows as the sample's, and probabilities."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from src.arguments import Parser
from src.ensemble.assemble import assemble, fill, judge, loss_by_network, read_out_of_fold, require_same_networks
from src.ensemble.blend import BLENDS
from src.ensemble.calibrate import CALIBRATIONS
from src.ensemble.manifest import Inputs, read_manifest, sha256, write_manifest
from src.ensemble.recipe import Recipe
from src.ensemble.submission import check_submission, make_submission, read_sample, read_submission, score_submission
from src.errors import UserError, first_few, run_command
from src.evaluate.out_of_fold import read_truth
from src.files.atomic import replacing
from src.files.label_csv import pivot_labels
from src.files.layout import Layout
from src.files.predictions import read_predictions, write_predictions
from src.labels import split_row_ids


def make(inputs: Inputs, output: Path, expected: str | None = None) -> None:
    """Write a submission, beside it its manifest and, where there are out-of-fold predictions, the bag of those.

    expected: SHA-256 of the bytes that must come out. Raises UserError, and writes nothing, where others do.
    """
    given_files = [inputs.sample, *inputs.tables, *inputs.predictions, *inputs.out_of_fold]
    if output.resolve() in [each.resolve() for each in given_files]:
        raise UserError(f"{output} is one of the inputs; give another --output")
    layout = None if inputs.root is None else Layout(inputs.root)
    sample = read_sample(inputs.sample)
    predictions = [read_predictions(path) for path in inputs.predictions]
    held_out = judged = None
    losses: dict[tuple[str, int, int], float] = {}
    if inputs.out_of_fold:
        if layout is None:
            raise UserError("--out-of-fold needs the labels and folds that preprocessing made: give --root")
        truth = read_truth(layout)
        places = None if inputs.recipe.smooth_mm == 0 else layout.table("train")
        given = [read_predictions(path) for path in inputs.out_of_fold]
        require_same_networks(predictions, given)
        held_out = read_out_of_fold(given, truth, places)
        judged = judge(held_out, inputs.recipe)
        losses = loss_by_network(given, truth)
        print(f"out-of-fold log loss over {len(held_out.truth)} of {len(truth)} training slices")
        print(_table(judged.scores, 4))
        print(f"\ncorrelation of members, within labels\n{_square(judged.correlations, 3)}\n")
        if judged.better_alone is not None and inputs.recipe.blend != "weights":
            remedy = "--blend weights (BLEND=weights) lets members weigh unequally"
            print(f"{judged.better_alone} alone would have scored better; {remedy}\n")
    bagged, numbers = assemble(predictions, inputs.recipe, held_out, layout)
    unjudged = [name for name in numbers["weights"] if held_out is not None and name not in held_out.names]
    if unjudged:
        print(f"no out-of-fold predictions of {first_few(unjudged)}: the figures above are of the others alone\n")
    bagged, filled = fill(bagged, pd.Index(split_row_ids(sample["ID"])[0].unique()), layout)
    submission = make_submission(sample, bagged)
    check_submission(submission, sample, str(output))
    with replacing(output) as temporary:
        submission.to_csv(temporary, index=False)
        if expected not in (None, sha256(temporary)):
            raise UserError(
                f"{output}: the same inputs no longer give the same bytes (SHA-256 {expected}), as with packages of "
                "other versions; nothing is written"
            )
    out_of_fold = beside(output, "out_of_fold.parquet")
    if judged is None:
        out_of_fold.unlink(missing_ok=True)  # it was of another submission
    else:
        write_predictions(out_of_fold, judged.bagged.ids, judged.bagged.probabilities)
    facts = {
        "numbers": numbers,
        "filled": filled,
        "out_of_fold": None if judged is None else judged.scores.to_dict(orient="index"),
    }
    write_manifest(beside(output, "manifest.json"), inputs, output, losses, facts)
    if inputs.recipe != Recipe():
        print(f"{inputs.recipe.name}: {_words(numbers)}")
    why = ", ".join(f"{count} with the {source}" for source, count in filled.items())
    print(
        f"{output}: {len(submission)} rows from {len(predictions)} prediction files; "
        f"{filled.total()} rejected slices filled{f' ({why})' if why else ''}"
    )


def check(path: Path, sample: Path, truth: Path | None) -> None:
    """Check any submission against the sample's rows, and score it where the truth is known. Raises UserError."""
    submission = read_submission(path)
    check_submission(submission, read_sample(sample), str(path))
    labels = submission["Label"]
    print(f"{path}: {len(submission)} rows, those of {sample} in its order; from {labels.min():g} to {labels.max():g}")
    if truth is not None:
        scores = score_submission(submission, pivot_labels(truth, test=False)[0])
        print(_table(scores, 4))


def beside(output: Path, name: str) -> Path:
    """Where a file that goes with a submission lies: `manifest.json` with `submission.csv`, `x.manifest.json` with
    `x.csv`.
    """
    return output.with_name(name if output.stem == "submission" else f"{output.stem}.{name}")


def _table(frame: pd.DataFrame, digits: int) -> str:
    return frame.to_string(float_format=f"{{:.{digits}f}}".format, na_rep="-")


def _square(frame: pd.DataFrame, digits: int) -> str:
    """A table whose columns are its rows: numbered, which leaves it room."""
    numbers = [str(number) for number in range(1, len(frame) + 1)]
    rows = [f"{number} {name}" for number, name in zip(numbers, frame.index, strict=True)]
    return _table(frame.set_axis(rows, axis=0).set_axis(numbers, axis=1), digits)


def _words(numbers: dict[str, Any]) -> str:
    parts = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:.3f}" for key, number in value.items())
        parts.append(f"{name} {value}")
    return "; ".join(parts)


def _smooth(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected millimetres, 0 or more, or auto")
    return number


def _parser() -> Parser:
    parser = Parser(
        prog="python -m src.ensemble.make_submission",
        description=__doc__,
        epilog="example: python -m src.ensemble.make_submission --predictions model/*/fold*/test_epoch[23].parquet "
        "--sample input/stage_2_sample_submission.csv --output submission/submission.csv",
    )
    parser.add_argument("--sample", type=Path, help="Kaggle's sample submission")
    making = parser.add_argument_group("to make one")
    making.add_argument("--predictions", type=Path, nargs="+", help="prediction files of the test set")
    making.add_argument("--output", type=Path, help="the submission to write, CSV; beside it manifest.json")
    making.add_argument(
        "--root",
        type=Path,
        help="folder whose cache/ preprocessing filled: with it, rejected test slices are filled, not refused",
    )
    making.add_argument(
        "--out-of-fold", type=Path, nargs="*", default=[], help="out-of-fold prediction files, to score and to fit"
    )
    making.add_argument(
        "--blend", choices=BLENDS, default="mean", help="mean over members, by default plain (simple bagging)"
    )
    making.add_argument(
        "--smooth",
        type=_smooth,
        default=0.0,
        metavar="MM|auto",
        help="standard deviation of a Gaussian along z over the slices of a series, in mm (default 0: none)",
    )
    making.add_argument("--calibrate", choices=CALIBRATIONS, default="none", help="by label (default none)")
    other = parser.add_argument_group("in place of that")
    other.add_argument(
        "--rebuild", type=Path, metavar="MANIFEST", help="make the submission of a manifest again, the same bytes"
    )
    other.add_argument("--check", type=Path, metavar="CSV", help="check a submission, also one from elsewhere")
    other.add_argument("--truth", type=Path, metavar="CSV", help="with --check: labels of the test set, to score it")
    return parser


def main() -> None:
    """Read arguments, make or check, report."""
    parser = _parser()
    args = parser.parse_args()
    modes = {"--predictions": args.predictions, "--rebuild": args.rebuild, "--check": args.check}
    given = [name for name, value in modes.items() if value is not None]
    if len(given) != 1:
        parser.error(f"expected one of {', '.join(modes)}, found {' and '.join(given) or 'none'}")
    if args.truth is not None and args.check is None:
        parser.error("--truth goes with --check")
    if args.predictions is None:
        idle = [
            name
            for name in ("root", "out_of_fold", "blend", "smooth", "calibrate")
            if getattr(args, name) != parser.get_default(name)
        ]
        if idle:
            parser.error(f"--{idle[0].replace('_', '-')} goes with --predictions")
    if args.rebuild is not None:
        inputs, made = read_manifest(args.rebuild)
        make(inputs, args.output or Path(made["path"]), made["sha256"])
        return
    if args.sample is None:
        parser.error(f"{given[0]} needs --sample")
    if args.check is not None:
        check(args.check, args.sample, args.truth)
        return
    if args.output is None:
        parser.error("--predictions needs --output")
    recipe = Recipe(args.blend, args.smooth, args.calibrate)
    make(Inputs(args.predictions, args.out_of_fold, args.sample, args.root, recipe), args.output)


if __name__ == "__main__":
    run_command(main)
