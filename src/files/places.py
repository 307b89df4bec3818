"""Where slices lie: which series they are of, and their place along z in it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.errors import UserError, first_few
from src.files.tables import read_table


@dataclass(frozen=True)
class Places:
    """Where N slices lie: series (N,) as integers, z (N,) in mm along the normal, NaN where nobody knows."""

    series: np.ndarray
    z: np.ndarray

    @classmethod
    def unknown(cls, count: int) -> "Places":
        """Of slices of which nobody knows where they lie."""
        return cls(np.zeros(count, dtype=np.int64), np.full(count, np.nan))

    def take(self, chosen: np.ndarray) -> "Places":
        """Some of them, by a mask or by indices."""
        return Places(self.series[chosen], self.z[chosen])

    def in_series_order(self) -> tuple[np.ndarray, np.ndarray]:
        """The slices series by series, each along z: (order (N,), starts (S + 1,) of the S series in it).

        A slice whose z is unknown is a series by itself.
        """
        order = np.lexsort((np.arange(len(self.z)), self.z, self.series))  # NaN last
        series, known = self.series[order], ~np.isnan(self.z[order])
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (series[1:] != series[:-1]) | ~known[1:]
        return order, np.append(np.flatnonzero(begins), len(order))


def read_places(table_path: Path, ids: pd.Index) -> Places:
    """Where slices lie, from cache/train.parquet or cache/test.parquet. Raises UserError for slices that it lacks."""
    columns = ["ID", "SeriesInstanceUID", "z"]
    table = read_table(table_path, columns, made_by="bin/preprocess.sh")[columns]
    rows = pd.Index(table["ID"]).get_indexer(ids)
    lacking = ids[rows < 0]
    if len(lacking):
        raise UserError(f"{table_path} lacks {len(lacking)} predicted slices: {first_few(lacking)}")
    series = pd.factorize(table["SeriesInstanceUID"])[0]
    return Places(series[rows], table["z"].to_numpy(dtype=np.float64)[rows])
