"""Make a submission from prediction files: read, combine, score out of fold, fill rejected slices, write."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from src.ensemble.assemble import (
    OutOfFold,
    OutOfFoldScores,
    assemble,
    fill,
    loss_by_network,
    read_out_of_fold,
    require_same_networks,
    score_out_of_fold,
)
from src.ensemble.bag import Member
from src.ensemble.manifest import Inputs, read_submission_entry, write_manifest
from src.ensemble.submission import check_submission, make_submission, read_sample
from src.errors import UserError
from src.evaluate.out_of_fold import Truth, read_truth
from src.files.atomic import held_by_one_run, replacing
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import Predictions, read_predictions, write_predictions
from src.labels import split_row_ids


@dataclass(frozen=True)
class Scored:
    """The out-of-fold scores of a recipe. losses: of each network on its held-out slices, by conf, fold and epoch."""

    held_out: OutOfFold
    scores: OutOfFoldScores
    losses: dict[tuple[str, int, int], float]
    truth: Truth


@dataclass(frozen=True)
class Made:
    """A submission and how it was made. numbers: of the recipe; filled: counts of filled slices by source."""

    submission: pd.DataFrame
    numbers: dict[str, Any]
    filled: Counter[str]
    scored: Scored | None

    @property
    def unscored(self) -> list[str]:
        """Members of the test set that have no out-of-fold predictions, although others have."""
        if self.scored is None:
            return []
        return [name for name in self.numbers["weights"] if name not in self.scored.held_out.names]


def make(inputs: Inputs, *, on_scored: Callable[[Scored], None] = lambda scored: None) -> Made:
    """Make a submission. Raises UserError for predictions that do not belong together or do not fit the sample.

    on_scored: called with the out-of-fold scores as soon as they are known, if there are any.
    """
    layout = None if inputs.root is None else Layout(inputs.root)
    sample = read_sample(inputs.sample)
    predictions = [read_predictions(path) for path in inputs.predictions]
    out_of_fold = [read_predictions(path) for path in inputs.out_of_fold]
    scored = _score(inputs, predictions, out_of_fold, layout)
    if scored is not None:
        on_scored(scored)
    held_out = None if scored is None else scored.held_out
    bagged, numbers = assemble(predictions, inputs.recipe, held_out, layout)
    bagged, filled = fill(bagged, _slice_ids(sample), layout)
    submission = make_submission(sample, bagged)
    check_submission(submission, sample, "the submission")
    return Made(submission, numbers, filled, scored)


def _score(
    inputs: Inputs, predictions: Sequence[Predictions], out_of_fold: Sequence[Predictions], layout: Layout | None
) -> Scored | None:
    """Score a recipe out of fold, if there are out-of-fold predictions."""
    if not out_of_fold:
        return None
    if layout is None:
        raise UserError(
            "out-of-fold predictions are scored by the labels and folds that preprocessing made, and no root is given"
        )
    truth = read_truth(layout)
    require_same_networks(predictions, out_of_fold)
    positions = None if inputs.recipe.smooth_mm == 0 else layout.table("train")
    held_out = read_out_of_fold(out_of_fold, truth, positions)
    return Scored(held_out, score_out_of_fold(held_out, inputs.recipe), loss_by_network(out_of_fold, truth), truth)


def require_other_place(output: Path, inputs: Inputs) -> None:
    """Raise UserError if a submission would take the place of one of its inputs."""
    given = [inputs.sample, *inputs.tables, *inputs.predictions, *inputs.out_of_fold]
    if output.resolve() in [each.resolve() for each in given]:
        raise UserError(f"{output} is one of the inputs; expected another place for the submission")


def write(made: Made, inputs: Inputs, output: Path, expected: str | None = None) -> None:
    """Write a submission, and beside it its manifest and, if it was scored, the out-of-fold predictions of the bag.

    A second run waits, so that the files are of one run. expected: SHA-256 that the submission must have. Raises
    UserError, and writes nothing, if it has another one.
    """
    with held_by_one_run(output.parent):
        _write(made, inputs, output, expected)


def _write(made: Made, inputs: Inputs, output: Path, expected: str | None) -> None:
    with replacing(output) as temporary:
        made.submission.to_csv(temporary, index=False)
        if expected not in (None, file_sha256(temporary)):
            raise UserError(
                f"{output}: the same inputs no longer give the same bytes (SHA-256 {expected}), as with packages of "
                "other versions; nothing is written"
            )
    out_of_fold, scored = beside(output, "out_of_fold.parquet"), made.scored
    facts: dict[str, Any] = {"numbers": made.numbers, "filled": made.filled, "out_of_fold": None}
    if scored is None:
        out_of_fold.unlink(missing_ok=True)  # it belongs to an earlier submission
    else:
        _write_out_of_fold(out_of_fold, scored.scores.bagged, scored.truth)
        facts["out_of_fold_file"] = file_sha256(out_of_fold)
        facts["out_of_fold"] = scored.scores.table.to_dict(orient="index")
    losses = {} if scored is None else scored.losses
    write_manifest(beside(output, "manifest.json"), inputs, output, losses, facts)


def _write_out_of_fold(path: Path, bagged: Member, truth: Truth) -> None:
    write_predictions(path, bagged.ids, bagged.probabilities, folds=truth.folds_fingerprint)


def beside(output: Path, name: str) -> Path:
    """The path of a file beside a submission: `manifest.json` for `submission.csv`, `x.manifest.json` for `x.csv`."""
    return output.with_name(name if output.stem == "submission" else f"{output.stem}.{name}")


def require_as_made(submission: Path) -> None:
    """Raise UserError where a manifest lies beside a submission, and names other bytes. One made elsewhere has none."""
    manifest = beside(submission, "manifest.json")
    if not manifest.is_file():
        return
    named = read_submission_entry(manifest)
    if Path(named["path"]).name == submission.name and named["sha256"] != file_sha256(submission):
        raise UserError(f"{submission} is damaged or was changed: {manifest} names other bytes", step="ensemble")


def _slice_ids(sample: pd.DataFrame) -> pd.Index:
    return pd.Index(split_row_ids(sample["ID"])[0].unique())
