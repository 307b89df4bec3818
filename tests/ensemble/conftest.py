from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.files.predictions import Origin, Predictions, read_predictions, write_predictions

Make = Callable[..., Predictions]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a prediction file and read it back."""

    def _make(ids: list[str], values: float | np.ndarray, **origin: object) -> Predictions:
        about = Origin(
            **{
                "conf": "net",
                "fold": 0,
                "epoch": 2,
                "checkpoint": "c",
                "split": "test",
                "slices": "s",
                "views": "Identity",
                **origin,
            }  # type: ignore[arg-type]
        )
        path = tmp_path / f"{about.conf}_fold{about.fold}_{about.split}_epoch{about.epoch}.parquet"
        probabilities = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(ids), 6))
        write_predictions(path, pd.Series(ids), probabilities, about)
        return read_predictions(path)

    return _make
