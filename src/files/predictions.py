"""Prediction files: parquet with `ID` and six float32 probabilities, and where they come from in the metadata."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from src.errors import UserError, first_few
from src.files.atomic import replacing
from src.files.tables import read_table
from src.labels import LABELS


@dataclass(frozen=True)
class Origin:
    """Which network predicted what."""

    conf: str
    fold: int  # the one that the network did not see
    epoch: int
    checkpoint: str  # SHA-256
    split: str  # "valid" (out of fold) or "test"
    slices: str  # ImageStore.fingerprint of what was predicted
    views: str  # test-time augmentation


@dataclass(frozen=True)
class Predictions:
    """Probabilities of N slices. `origin` is None for files that were not made by this pipeline."""

    path: Path
    ids: pd.Series  # (N,) slice ids, each once
    probabilities: np.ndarray  # (N, 6) float32 in [0, 1], columns in the order of LABELS
    origin: Origin | None


def write_predictions(
    path: Path, ids: pd.Series | pd.Index, probabilities: np.ndarray, origin: Origin | None = None
) -> None:
    """Write a prediction file, atomically. ids: (N,), probabilities: (N, 6); origin: None for those of a bag."""
    frame = pd.DataFrame(probabilities.astype(np.float32), columns=list(LABELS))
    frame.insert(0, "ID", ids.to_numpy())
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {} if origin is None else {key: str(value) for key, value in asdict(origin).items()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_origin(path: Path) -> Origin | None:
    """Where a prediction file comes from; None where it does not say or does not exist."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        said = {key: metadata[key.encode()].decode() for key in Origin.__dataclass_fields__}
        return Origin(**{**said, "fold": int(said["fold"]), "epoch": int(said["epoch"])})
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None


def read_predictions(path: Path) -> Predictions:
    """Read a prediction file, from here or elsewhere.

    Raises UserError naming the file and the first few culprits where an id comes twice or a probability is not
    finite or lies outside [0, 1].
    """
    frame = read_table(path, ("ID", *LABELS), made_by="bin/predict.sh")
    ids = frame["ID"].astype(str)
    try:
        probabilities = frame[list(LABELS)].to_numpy(dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: probabilities must be numbers: {error}") from error
    twice = ids[ids.duplicated()]
    if len(twice):
        raise UserError(f"{path}: {twice.nunique()} ids come more than once: {first_few(twice.unique())}")
    bad = ~np.isfinite(probabilities) | (probabilities < 0) | (probabilities > 1)
    if bad.any():
        rows, columns = np.nonzero(bad)
        named = (f"{ids[r]} {LABELS[c]} {probabilities[r, c]}" for r, c in zip(rows, columns, strict=True))
        raise UserError(f"{path}: {bad.sum()} probabilities are not in [0, 1]: {first_few(named)}")
    return Predictions(path, ids, probabilities, read_origin(path))
