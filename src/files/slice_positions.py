"""Slice positions: the series that slices belong to, and where they lie along its normal."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.tables import read_table


@dataclass(frozen=True)
class SlicePositions:
    """Positions of N slices: series (N,) as integers, z (N,) in mm along the normal, NaN where it is unknown."""

    series: np.ndarray
    z: np.ndarray

    @classmethod
    def unknown(cls, count: int) -> "SlicePositions":
        """Positions of `count` slices whose series and z are unknown."""
        return cls(np.zeros(count, dtype=np.int64), np.full(count, np.nan))

    def take(self, chosen: np.ndarray) -> "SlicePositions":
        """The positions of some slices, chosen by a mask or by indices."""
        return SlicePositions(self.series[chosen], self.z[chosen])


def read_slice_positions(table_path: Path, ids: pd.Index) -> SlicePositions:
    """Read positions from cache/train.parquet or cache/test.parquet. Raises UserError for missing slices."""
    columns = ["ID", "SeriesInstanceUID", "z"]
    table = read_table(table_path, columns, step="preprocess")[columns]
    rows = pd.Index(table["ID"]).get_indexer(ids)
    lacking = ids[rows < 0]
    if len(lacking):
        raise UserError(f"{table_path} lacks {len(lacking)} slices: {first_few(lacking)}", step="preprocess")
    series = pd.factorize(table["SeriesInstanceUID"])[0]
    return SlicePositions(series[rows], table["z"].to_numpy(dtype=np.float64)[rows])
