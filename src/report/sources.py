"""What the pipeline has left behind so far, read when it is asked for; None where it is not there yet."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.detector.operating import Thresholds, score_out_of_fold_bag
from src.documents import parse_json, read_text
from src.ensemble.assemble import OutOfFold, read_out_of_fold
from src.ensemble.manifest import read_record
from src.ensemble.recipe import Recipe
from src.errors import UserError
from src.evaluate.out_of_fold import Truth, check_out_of_fold, read_truth
from src.evaluate.study import Cases
from src.evaluate.summary import to_levels
from src.files.checksum import file_sha256
from src.files.layout import FoldFolder, Layout
from src.files.predictions import Predictions, read_predictions
from src.files.provenance import Provenance
from src.files.slice_positions import SlicePositions, read_slice_positions
from src.files.tables import read_table
from src.labels import LABELS
from src.report.series import series_table

SPLITS = ("train", "test")
_HEADERS = (
    "ID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "z",
    "reason",
    "rows",
    "columns",
    "row_spacing",
)
# read without a check of what they hold: they only group slices
_MORE = ("z_index", "n_slices", "column_spacing", "bits_stored", "pixel_representation")
_PLACE = tuple(
    [f"position_{axis}" for axis in "xyz"] + [f"{side}_cosine_{axis}" for side in ("row", "column") for axis in "xyz"]
)


@dataclass(frozen=True)
class Scored:
    """The bag's out-of-fold predictions with the truth: probabilities (N, 6) of truth's N slices.

    levels: the cases by slice and by study.
    """

    truth: Truth
    probabilities: np.ndarray
    levels: dict[str, Cases]


class Sources:
    """The files under a root folder. Raises UserError, when they are read, for files that are damaged or disagree."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def headers(self, split: str) -> pd.DataFrame | None:
        """The table of a split, a row per ID: tags, positions, and for training the labels."""
        return self._headers.get(split)

    @cached_property
    def _headers(self) -> dict[str, pd.DataFrame]:
        return {split: self._read_headers(split) for split in SPLITS if self.layout.table(split).is_file()}

    def _read_headers(self, split: str) -> pd.DataFrame:
        labels = LABELS if split == "train" else ()
        table = read_table(self.layout.table(split), [*_HEADERS, *labels], step="preprocess")
        keep = [name for name in (*_HEADERS, *_MORE, *_PLACE, *labels) if name in table.columns]
        return table[keep]

    @cached_property
    def series(self) -> pd.DataFrame:
        """The series of all splits whose headers are read: `split`, and what `series_table` says."""
        frames = [series_table(table).assign(split=split) for split, table in self._headers.items()]
        return pd.concat(frames, ignore_index=True)

    def index(self, split: str) -> pd.DataFrame | None:
        """The index of a split's image store."""
        path = self.layout.store(split) / "index.parquet"
        return read_table(path, ("ID", "brain_share"), step="preprocess") if path.is_file() else None

    @cached_property
    def audit(self) -> dict[str, Any] | None:
        """What the audit of the data has found."""
        path = self.layout.audit
        if not path.is_file():
            return None
        try:
            found = parse_json(read_text(path))
            return dict(found)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is no audit ({error})", step="preprocess") from error

    @cached_property
    def folds(self) -> list[FoldFolder]:
        """The folder of each fold of each classifier and sequence model that has been trained for an epoch."""
        return [FoldFolder(path.parent) for path in sorted((self.layout.root / "model").glob("*/fold*/metrics.csv"))]

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What the manifest of the submission says."""
        path = self.manifest_file
        return read_record(path) if path.is_file() else None

    @property
    def manifest_file(self) -> Path:
        """The manifest of the submission."""
        return self.layout.submission.with_name("manifest.json")

    @property
    def bag_file(self) -> Path:
        """The out-of-fold predictions of the submission's bag."""
        return self.layout.submission.with_name("out_of_fold.parquet")

    @cached_property
    def truth(self) -> Truth | None:
        """The labels and folds of the training slices."""
        return read_truth(self.layout) if self.layout.folds.is_file() and self.layout.table("train").is_file() else None

    @cached_property
    def scored(self) -> Scored | None:
        """The bag, where a submission was made and scored."""
        if self.manifest is None or self.manifest.get("out_of_fold") is None or self.truth is None:
            return None
        if not self.bag_file.is_file() or self.manifest.get("out_of_fold_file") not in (
            None,
            file_sha256(self.bag_file),
        ):
            raise UserError(
                f"{self.bag_file} is missing or of another submission than {self.manifest_file}", step="ensemble"
            )
        predictions = read_predictions(self.bag_file)
        check_out_of_fold([predictions], self.truth)
        truth = self.truth.of(pd.Index(predictions.ids))
        probabilities = predictions.probabilities.astype(np.float64)
        return Scored(truth, probabilities, to_levels(truth, probabilities))

    @cached_property
    def operating(self) -> tuple[Thresholds, dict[str, Any]] | None:
        """The detector's operating points, by level, name and label, and figures about them."""
        return None if self.scored is None else score_out_of_fold_bag(self.bag_file, self.layout)

    @cached_property
    def members(self) -> OutOfFold | None:
        """The members of the bag on the slices that all of them predict."""
        if self.scored is None or self.truth is None:
            return None
        return read_out_of_fold(
            [self._predictions(each) for each in self.networks], self.truth, self.layout.table("train")
        )

    @property
    def recipe(self) -> Recipe:
        """How the members were combined."""
        assert self.manifest is not None  # noqa: S101 - asked for with members
        return Recipe(**self.manifest["recipe"])

    @property
    def networks(self) -> list[Provenance]:
        """The networks whose out-of-fold predictions the submission was scored by."""
        if self.manifest is None:
            return []
        try:
            return [Provenance.from_record(each) for each in self.manifest["out_of_fold_predictions"]]
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{self.manifest_file} names no networks ({error})", step="ensemble") from error

    def _predictions(self, of: Provenance) -> Predictions:
        return read_predictions(self.layout.fold(of.conf, of.fold).predictions("valid", of.epoch))

    @cached_property
    def positions(self) -> SlicePositions | None:
        """The positions of the bag's slices."""
        if self.scored is None:
            return None
        return read_slice_positions(self.layout.table("train"), self.scored.truth.ids)
