"""Bag prediction files into a submission, and score the out-of-fold predictions that belong to them."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser
from src.ensemble.bag import Member, bag, out_of_fold_members, test_members
from src.ensemble.fill import fill_rejected
from src.errors import UserError, first_few, run_command
from src.evaluate.score import CLIP, constant_prior, log_loss_by_label, weighted_log_loss
from src.files.atomic import replacing
from src.files.predictions import Predictions, read_predictions
from src.files.tables import read_csv, read_table
from src.labels import LABELS, split_row_ids


def make_submission(sample: pd.DataFrame, bagged: Member) -> pd.DataFrame:
    """The sample submission's rows in its order, with probabilities clipped to [1e-6, 1 - 1e-6].

    sample: `ID` as `ID_..._<label>`. Raises UserError naming the first few slices of the sample that are not
    predicted, predicted slices that the sample lacks, and rows that come twice.
    """
    twice = sample.loc[sample["ID"].duplicated(), "ID"]
    if len(twice):
        raise UserError(f"the sample submission has {len(twice)} rows more than once: {first_few(twice)}")
    slice_ids, codes = split_row_ids(sample["ID"])
    places = bagged.ids.get_indexer(pd.Index(slice_ids))
    if (places < 0).any():
        lacking = slice_ids[places < 0].unique()
        raise UserError(f"{len(lacking)} slices of the sample submission have no prediction: {first_few(lacking)}")
    extra = bagged.ids.difference(pd.Index(slice_ids.unique()))
    if len(extra):
        raise UserError(f"{len(extra)} predicted slices are not in the sample submission: {first_few(extra)}")
    probabilities = np.clip(bagged.probabilities[places, codes.to_numpy()], CLIP, 1 - CLIP)
    return pd.DataFrame({"ID": sample["ID"], "Label": probabilities})


def score_out_of_fold(predictions: Sequence[Predictions], table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The weighted log loss of each classifier at each epoch, of each classifier, of the bag and of the constant prior.

    All are scored on the same slices: those that every classifier and epoch predicts. table: `ID` and the six labels of
    the training slices. Returns a row each, indexed by name, with the columns `weighted` and LABELS; and the number of
    slices.
    """
    members = _on_common_slices(out_of_fold_members(predictions))
    classifiers: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        classifiers[member.name.rpartition(" epoch ")[0]].append(member)
    of_classifiers = [replace(bag(epochs), name=name) for name, epochs in classifiers.items()]
    bagged = bag(members)
    labels = table.set_index("ID")[list(LABELS)]
    unknown = bagged.ids.difference(labels.index)
    if len(unknown):
        raise UserError(f"{len(unknown)} out-of-fold slices are not in the training table: {first_few(unknown)}")
    prior = Member("constant prior", bagged.ids, constant_prior(labels.loc[bagged.ids].to_numpy()))
    rows = {each.name: _scores(labels, each) for each in (*members, *of_classifiers, bagged, prior)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weighted", *LABELS]), len(bagged.ids)


def fill_from_store(
    bagged: Member, sample: pd.DataFrame, table: Path, store: Path, train: pd.DataFrame
) -> tuple[Member, Counter[str]]:
    """Fill the sample's slices that preprocessing rejected, and no others. See `fill_rejected`.

    table: the test table's path; store: the test image store's folder; train: the training table.
    """
    rejected = read_csv(store / "rejected.csv", ("ID",), dtype={"ID": "str"})["ID"]
    slice_ids, _ = split_row_ids(sample["ID"])
    due = pd.Index(rejected[rejected.isin(slice_ids) & ~rejected.isin(bagged.ids)])
    places = read_table(table, ("ID", "SeriesInstanceUID", "z_index"), made_by="bin/preprocess.sh")
    return fill_rejected(bagged, due, places, train[list(LABELS)].to_numpy().mean(axis=0))


def _on_common_slices(members: Sequence[Member]) -> list[Member]:
    common = members[0].ids
    for member in members[1:]:
        common = common.intersection(member.ids, sort=False)
    if not len(common):
        raise UserError(
            "the out-of-fold predictions have no slice in common; predict the same folds with each classifier"
        )
    return [Member(each.name, common, each.probabilities[each.ids.get_indexer(common)]) for each in members]


def _scores(labels: pd.DataFrame, member: Member) -> list[float]:
    targets = labels.loc[member.ids].to_numpy()
    by_label = log_loss_by_label(targets, member.probabilities)
    return [weighted_log_loss(targets, member.probabilities), *map(float, by_label)]


def _manifest(
    predictions: Sequence[Predictions], scores: pd.DataFrame | None, filled: Counter[str], submission: Path
) -> dict[str, Any]:
    """What went into a submission."""
    return {
        "submission": submission.name,
        "blend": "mean",
        "clip": CLIP,
        "predictions": [
            {
                "path": str(each.path),
                "sha256": hashlib.sha256(each.path.read_bytes()).hexdigest(),
                **({} if each.origin is None else vars(each.origin)),
            }
            for each in predictions
        ],
        "filled": dict(filled),
        "out_of_fold": None if scores is None else scores.to_dict(orient="index"),
    }


def main() -> None:
    """Read arguments, bag, write, report."""
    parser = Parser(
        prog="python -m src.ensemble.make_submission",
        description=__doc__,
        epilog="example: python -m src.ensemble.make_submission --predictions model/*/fold*/test_epoch[23].parquet "
        "--sample input/stage_2_sample_submission.csv --output submission/submission.csv",
    )
    parser.add_argument("--predictions", type=Path, nargs="+", required=True, help="prediction files of the test set")
    parser.add_argument("--sample", type=Path, required=True, help="Kaggle's sample submission")
    parser.add_argument("--output", type=Path, required=True, help="the submission to write, CSV")
    more = parser.add_argument_group("what preprocessing made: with it, rejected test slices are filled, not refused")
    more.add_argument("--table", type=Path, help="the test table, cache/test.parquet")
    more.add_argument("--store", type=Path, help="the test image store, cache/test")
    more.add_argument("--train-table", type=Path, help="the training table, cache/train.parquet")
    more.add_argument("--out-of-fold", type=Path, nargs="*", default=[], help="out-of-fold prediction files to score")
    args = parser.parse_args()
    filling = (args.table, args.store)
    if any(filling) != all(filling) or ((any(filling) or args.out_of_fold) and args.train_table is None):
        raise UserError("--table and --store go together, and both they and --out-of-fold need --train-table")

    sample = read_csv(args.sample, ("ID",), dtype={"ID": "str"})
    predictions = [read_predictions(path) for path in args.predictions]
    bagged, filled, scores = bag(test_members(predictions)), Counter[str](), None
    if args.train_table is not None:
        train = read_table(args.train_table, ("ID", *LABELS), made_by="bin/preprocess.sh")
        if all(filling):
            bagged, filled = fill_from_store(bagged, sample, args.table, args.store, train)
        if args.out_of_fold:
            scores, scored = score_out_of_fold([read_predictions(path) for path in args.out_of_fold], train)
            print(f"out-of-fold log loss over {scored} of {len(train)} training slices")
            print(scores.to_string(float_format="{:.4f}".format))
    submission = make_submission(sample, bagged)
    with replacing(args.output) as temporary:
        submission.to_csv(temporary, index=False)
    with replacing(args.output.parent / "manifest.json") as temporary:
        text = json.dumps(_manifest(predictions, scores, filled, args.output), indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")
    why = ", ".join(f"{count} with the {source}" for source, count in filled.items())
    print(
        f"{args.output}: {len(submission)} rows from {len(predictions)} prediction files; "
        f"{filled.total()} rejected slices filled{f' ({why})' if why else ''}"
    )


if __name__ == "__main__":
    run_command(main)
