"""Prediction files: parquet with `ID` and six float32 probabilities, and their provenance in the metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from src.errors import UserError, first_few
from src.files.checksum import read_sealed
from src.files.columns import PROBABILITIES
from src.files.provenance import Provenance
from src.files.tables import checked_frame, read_arrow, table_metadata, write_arrow
from src.labels import LABELS

_FOLDS = "folds"  # the metadata key of a bag's folds


@dataclass(frozen=True)
class Predictions:
    """Probabilities of N slices. `provenance` is None for files that were not made by a network of this pipeline."""

    path: Path
    ids: pd.Series  # (N,) unique slice ids
    probabilities: np.ndarray  # (N, 6) float32 in [0, 1], columns in the order of LABELS
    provenance: Provenance | None
    folds: str | None = None  # for a bag's out-of-fold file: the fingerprint of the folds it was made with


def write_predictions(
    path: Path,
    ids: pd.Series | pd.Index,
    probabilities: np.ndarray,
    provenance: Provenance | None = None,
    *,
    folds: str | None = None,
) -> None:
    """Write a prediction file, atomically. ids: (N,), probabilities: (N, 6).

    provenance: None for a bag; folds: the fingerprint of the folds, for a bag's out-of-fold predictions.
    """
    frame = pd.DataFrame(probabilities.astype(np.float32), columns=list(LABELS))
    frame.insert(0, "ID", ids.to_numpy())
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {} if provenance is None else {key: str(value) for key, value in provenance.record().items()}
    if folds is not None:
        metadata[_FOLDS] = folds
    write_arrow(table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata}), path)


def read_provenance(path: Path) -> Provenance | None:
    """The provenance of a prediction file; None where the file has none, is damaged, or does not exist."""
    try:
        return _provenance(table_metadata(read_arrow(path, step="predict", foreign=True)))
    except UserError:
        return None


def read_predictions(path: Path) -> Predictions:
    """Read a prediction file, whether this pipeline made it or not.

    Raises UserError as `read_table`, and naming the first few probabilities that are not finite or outside [0, 1].
    """
    table = read_arrow(path, step="predict", foreign=True)
    metadata = table_metadata(table)
    provenance = _provenance(metadata)
    if provenance is not None or _FOLDS in metadata:
        read_sealed(path, step="predict")  # a file by this pipeline has a checksum; without provenance it may have none
    frame = checked_frame(table, path, PROBABILITIES, step="predict")
    ids, probabilities = frame["ID"], frame[list(LABELS)].to_numpy(dtype=np.float32)
    bad = ~np.isfinite(probabilities) | (probabilities < 0) | (probabilities > 1)
    if bad.any():
        rows, columns = np.nonzero(bad)
        named = (f"{ids[r]} {LABELS[c]} {probabilities[r, c]}" for r, c in zip(rows, columns, strict=True))
        raise UserError(f"{path}: {bad.sum()} probabilities are not in [0, 1]: {first_few(named)}")
    return Predictions(path, ids, probabilities, provenance, metadata.get(_FOLDS))


def _provenance(metadata: Mapping[str, str]) -> Provenance | None:
    try:
        return Provenance.from_record(metadata)
    except (KeyError, ValueError, TypeError):
        return None
