from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.files.predictions import Predictions, read_predictions, write_predictions
from src.files.provenance import Provenance

Make = Callable[..., Predictions]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a prediction file and read it back."""

    def _make(ids: list[str], values: float | np.ndarray, **recorded: object) -> Predictions:
        provenance = Provenance(
            **{
                "conf": "net",
                "fold": 0,
                "epoch": 2,
                "checkpoint": "c",
                "split": "test",
                "slices": "s",
                "tta": "Identity",
                **recorded,
            }  # type: ignore[arg-type]
        )
        of = provenance
        path = tmp_path / f"{of.conf}_fold{of.fold}_{of.split}_epoch{of.epoch}.parquet"
        probabilities = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(ids), 6))
        write_predictions(path, pd.Series(ids), probabilities, provenance)
        return read_predictions(path)

    return _make
