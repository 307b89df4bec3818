"""Combine prediction files into a submission, or check that one has the rows of the sample and valid probabilities."""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

from src.arguments import Distinct, Parser, positive
from src.config import load_config, load_sequence_config
from src.ensemble.blend import BLENDS, NoLeastLoss
from src.ensemble.calibrate import CALIBRATIONS
from src.ensemble.fresh import require_fresh
from src.ensemble.make import Made, Scored, make, require_as_made, require_other_place, write
from src.ensemble.manifest import Inputs, read_manifest
from src.ensemble.recipe import OneFoldAlone, Recipe
from src.ensemble.submission import check_submission, read_sample, read_submission, score_submission
from src.errors import UserError, advising, first_few, run_command
from src.evaluate.score import weighted_log_loss
from src.files.label_csv import pivot_labels
from src.files.layout import Layout
from src.files.run import MEMBERS, Run
from src.files.timing import recorder
from src.labels import LABELS
from src.text_table import square_table, text_table

_log = logging.getLogger(__name__)


def check(path: Path, sample: Path, truth: Path | None) -> str:
    """Check any submission against the rows of the sample, score it if the truth is given, and return a report.

    Raises UserError for other rows, for labels that are not probabilities, and for bytes other than those that the
    manifest beside it names.
    """
    submission = read_submission(path)
    require_as_made(path)
    check_submission(submission, read_sample(sample), str(path))
    labels = submission["Label"]
    lines = [
        f"{path}: {len(submission)} rows, those of {sample} in its order; from {labels.min():g} to {labels.max():g}"
    ]
    if truth is not None:
        lines.append(text_table(score_submission(submission, pivot_labels(truth, test=False)[0]), 4))
    return "\n".join(lines)


def find_predictions(run: Run, members: str) -> tuple[list[Path], list[Path]]:
    """The existing prediction files of a run: (of the test set, out of fold).

    Raises UserError if there are none of the test set.
    """
    (test, n_test), (valid, n_valid) = (run.prediction_files(split, members) for split in ("test", "valid"))
    if not test:
        by_sequence = members == "sequence"
        asked = [*run.sequences] if by_sequence else [f"epoch {epoch}" for epoch in run.epochs]
        raise UserError(
            f"{run.layout.root / 'model'} has no predictions of the test set by {', '.join(run.classifiers)}, folds "
            f"{', '.join(map(str, run.folds))}, {', '.join(asked)}",
            step="sequence" if by_sequence else "predict",
        )
    if len(test) + len(valid) < n_test + n_valid:
        _log.warning("bagging the %d of %d prediction files that exist", len(test) + len(valid), n_test + n_valid)
    if members == "last":
        for model in run.incomplete_models():
            _log.warning("%s is left out: it has not predicted both splits of all folds", model)
    stages_of = run.stages(members)
    if len({len(stages) for stages in stages_of.values()}) > 1:
        counts = ", ".join(f"{classifier} has {len(stages)}" for classifier, stages in stages_of.items())
        _log.warning("members count alike, and classifiers have different numbers of them: %s", counts)
    for classifier, stages in stages_of.items():
        _log.info("%s: %s", classifier, ", ".join(f"{name} epoch {epoch}" for name, epoch in stages))
    return test, valid


def report(made: Made, inputs: Inputs, output: Path) -> str:
    """Describe what a submission was made of."""
    lines = []
    if made.unscored:
        lines.append(
            f"no out-of-fold predictions of {first_few(made.unscored)}: the figures above are of the others alone\n"
        )
    if inputs.recipe != Recipe():
        lines.append(f"{inputs.recipe.name}: {_words(made.numbers)}")
    why = ", ".join(f"{count} with the {source}" for source, count in made.filled.items())
    lines.append(
        f"{output}: {len(made.submission)} rows from {len(inputs.predictions)} prediction files; "
        f"{made.filled.total()} rejected slices filled{f' ({why})' if why else ''}"
    )
    return "\n".join(lines)


def report_scores(scored: Scored, recipe: Recipe) -> str:
    """Describe how members and their bag scored out of fold, and how alike they are."""
    held_out, scores = scored.held_out, scored.scores
    text = (
        f"out-of-fold log loss over {len(held_out.truth)} of {len(scored.truth)} training slices\n"
        f"{text_table(scores.table, 4)}\n\n"
        f"correlation of members, within labels\n{square_table(scores.correlations, 3)}\n"
    )
    if scores.better_alone is not None and recipe.blend != "weights":
        remedy = "--blend weights (BLEND=weights) lets members weigh unequally"
        text += f"\n{scores.better_alone} alone would have scored better; {remedy}\n"
    loss = weighted_log_loss(held_out.truth.targets, scores.bagged.probabilities)
    prior = scores.table.loc["constant prior", "weighted"]
    if loss >= prior:
        text += (
            f"\nThis is worse than no network: its loss is {loss:.4f}, and that of each label's prevalence, predicted "
            f"for every slice, {prior:.4f}. Something in the data, the confs or the training is wrong.\n"
        )
    return text


def _words(numbers: dict[str, Any]) -> str:
    parts = []
    for name, value in numbers.items():
        if name == "isotonic":
            value = f"{sum(len(each['x']) for each in value.values())} points"
        elif isinstance(value, dict):
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
    making = parser.add_argument_group("make a submission from prediction files")
    making.add_argument("--predictions", type=Path, nargs="+", help="prediction files of the test set")
    making.add_argument(
        "--out-of-fold", type=Path, nargs="*", default=[], help="out-of-fold prediction files, for scoring and fitting"
    )
    making.add_argument("--output", type=Path, help="CSV file to write; manifest.json is written beside it")
    making.add_argument(
        "--root",
        type=Path,
        help="folder of the preprocessed cache/; with it, rejected test slices are filled instead of refused",
    )
    making.add_argument("--blend", choices=BLENDS, default="mean", help="mean over members (default mean: bagging)")
    making.add_argument(
        "--smooth",
        type=_smooth,
        default=0.0,
        metavar="MM|auto",
        help="standard deviation in mm of a Gaussian along z over the slices of a series (default 0: none)",
    )
    making.add_argument("--calibrate", choices=CALIBRATIONS, default="none", help="calibrate each label (default none)")
    making.add_argument(
        "--consistent",
        action="store_true",
        help="at last, make `any` at least as probable as each subtype (bin/ensemble.sh: unless CONSISTENT=no)",
    )
    run = parser.add_argument_group("make a submission from a whole run, as bin/ensemble.sh does; with --root")
    run.add_argument("--confs", type=Path, nargs="+", metavar="CONF", help="classifiers: files of conf/")
    run.add_argument(
        "--folds", type=int, nargs="+", action=Distinct, default=list(range(5)), metavar="K", help="(default 0 1 2 3 4)"
    )
    run.add_argument("--epochs", type=positive, nargs="+", default=[2, 3], metavar="E", help="(default 2 3)")
    run.add_argument("--sequences", type=Path, nargs="*", default=[], metavar="CONF", help="files of conf/sequence/")
    run.add_argument(
        "--members",
        choices=MEMBERS,
        default="last",
        help="last: the last stage of each classifier that has predicted all folds; cnn: the classifiers' own epochs; "
        "sequence: the sequence models over them; all: both (default last)",
    )
    other = parser.add_argument_group("other modes")
    other.add_argument(
        "--rebuild", type=Path, metavar="MANIFEST", help="make the submission of a manifest again, byte for byte"
    )
    other.add_argument("--check", type=Path, metavar="CSV", help="check any submission, also one made elsewhere")
    other.add_argument("--truth", type=Path, metavar="CSV", help="with --check: labels of the test set, for scoring")
    return parser


def _check_arguments(parser: Parser, args: argparse.Namespace) -> None:
    """Raise UserError for arguments that need others, and for those that would be ignored."""
    modes = {name: getattr(args, name) for name in ("predictions", "confs", "rebuild", "check")}
    given = [f"--{name}" for name, value in modes.items() if value is not None]
    if len(given) != 1:
        expected = ", ".join(f"--{name}" for name in modes)
        parser.error(f"expected one of {expected}, found {' and '.join(given) or 'none'}")
    if args.truth is not None and args.check is None:
        parser.error("--truth goes with --check")
    of_run = ("folds", "epochs", "sequences", "members")
    of_making = ("root", "out_of_fold", "blend", "smooth", "calibrate", "consistent")
    idle = [name for name in of_run if args.confs is None and getattr(args, name) != parser.get_default(name)]
    if idle:
        parser.error(f"--{idle[0]} goes with --confs")
    making = args.predictions is not None or args.confs is not None
    idle = [name for name in of_making if not making and getattr(args, name) != parser.get_default(name)]
    if idle:
        parser.error(f"--{idle[0].replace('_', '-')} goes with --predictions")
    if args.rebuild is None and args.sample is None:
        parser.error(f"{given[0]} needs --sample")
    if making and args.output is None:
        parser.error(f"{given[0]} needs --output")
    if args.confs is not None and (args.root is None or args.out_of_fold):
        parser.error("--confs needs --root, and finds out-of-fold files by itself")
    if args.root is None and args.out_of_fold:
        parser.error("--out-of-fold needs the labels and folds that preprocessing made: give --root")
    if args.root is None and making and args.smooth != 0:
        parser.error("--smooth needs the positions of slices that preprocessing found: give --root")


def main() -> None:
    """Read the arguments, make or check a submission, and report."""
    parser = _parser()
    args = parser.parse_args()
    _check_arguments(parser, args)
    if args.check is not None:
        print(check(args.check, args.sample, args.truth))
        return
    expected = None
    if args.rebuild is not None:
        inputs, previous = read_manifest(args.rebuild)
        output, expected = args.output or Path(previous["path"]), previous["sha256"]
    else:
        predictions, out_of_fold = args.predictions, args.out_of_fold
        if args.confs is not None:
            classifiers = [load_config(path).name for path in args.confs]
            sequences = {conf.name: conf.epochs for conf in map(load_sequence_config, args.sequences)}
            run = Run(Layout(args.root), classifiers, args.folds, args.epochs, sequences)
            predictions, out_of_fold = find_predictions(run, args.members)
        recipe = Recipe(args.blend, args.smooth, args.calibrate, args.consistent)
        inputs, output = Inputs(predictions, out_of_fold, args.sample, args.root, recipe), args.output
    one_fold = advising(OneFoldAlone, "or take what fits nothing: --blend mean, --calibrate none and a --smooth in mm")
    require_other_place(output, inputs)
    if args.rebuild is None and inputs.root is not None:
        require_fresh([*inputs.predictions, *inputs.out_of_fold], Layout(inputs.root))
    with one_fold, advising(NoLeastLoss, "take --blend mean"):
        started = time.perf_counter()
        made = make(inputs, on_scored=lambda scored: print(report_scores(scored, inputs.recipe), flush=True))
    if inputs.root is not None and args.confs is not None:
        seconds = time.perf_counter() - started
        recorder(Layout(inputs.root).timings, "ensemble")(output.stem, len(made.submission) // len(LABELS), seconds)
    write(made, inputs, output, expected)
    print(report(made, inputs, output))


if __name__ == "__main__":
    run_command(main)
