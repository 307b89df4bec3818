from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ct.series import order_by_series
from src.errors import UserError
from src.files.slice_positions import read_slice_positions
from src.files.tables import write_table


def test_positions_are_found_by_id(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"ID": ["ID_a", "ID_b", "ID_c"], "SeriesInstanceUID": ["x", "y", "x"], "z": [1.0, 2.0, np.nan]}
    )
    write_table(table, tmp_path / "t.parquet")
    positions = read_slice_positions(tmp_path / "t.parquet", pd.Index(["ID_c", "ID_a"]))
    other = read_slice_positions(tmp_path / "t.parquet", pd.Index(["ID_b"]))
    assert positions.series[0] == positions.series[1] != other.series[0]
    np.testing.assert_array_equal(positions.z, [np.nan, 1])
    with pytest.raises(UserError, match=r"t.parquet lacks 1 slices: ID_d") as lacking:
        read_slice_positions(tmp_path / "t.parquet", pd.Index(["ID_d", "ID_a"]))
    assert lacking.value.step == "preprocess"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-5.0, 0.0, 1.5, 7.0, float("nan")])), min_size=1))
def test_series_are_in_one_piece_and_along_z(slices: list[tuple[int, float]]) -> None:
    series, z = np.array([each[0] for each in slices]), np.array([each[1] for each in slices])
    order, starts = order_by_series(series, z)
    assert sorted(order) == list(range(len(slices)))
    pieces = [order[start:stop] for start, stop in pairwise(starts)]
    assert sum(map(len, pieces)) == len(slices)
    whole = set()
    for piece in pieces:
        assert len(piece)
        if np.isnan(z[piece]).any():
            assert len(piece) == 1  # nobody knows what it is next to
            continue
        assert (np.diff(z[piece]) >= 0).all()
        (of,) = set(series[piece])
        assert of not in whole
        whole.add(of)
