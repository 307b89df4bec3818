from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.classify.split import read_split
from src.classify.stacks import find_stacks, neighbour_rows, pad_to_square
from src.ct.hounsfield import to_unit
from src.errors import UserError
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table, write_table


def test_squares_of_air() -> None:
    padded = pad_to_square(np.ones((4, 2), dtype=np.float32))
    assert padded.tolist() == [[0, 1, 1, 0]] * 4
    assert pad_to_square(np.ones((3, 3))).tolist() == np.ones((3, 3)).tolist()


def test_a_stack_is_the_series_around_a_slice() -> None:
    table = pd.DataFrame(
        {
            # in no order; rows 2 and 7 of the index have no place in a series
            "row": [5, 0, 1, 3, 4, 6],
            "SeriesInstanceUID": ["a", "b", "a", "a", "b", "a"],
            "z_index": [3, 0, 0, 5, 1, 1],  # slices 2 and 4 of series a could not be read
        }
    )
    one = neighbour_rows(table, 8, neighbours=1).tolist()
    assert [one[row] for row in (1, 6, 5, 3)] == [[1, 1, 6], [1, 6, 5], [6, 5, 3], [5, 3, 3]]
    assert [one[row] for row in (0, 4)] == [[0, 0, 4], [0, 4, 4]]
    assert [one[row] for row in (2, 7)] == [[2, 2, 2], [7, 7, 7]]
    assert neighbour_rows(table, 8, neighbours=2)[6].tolist() == [1, 1, 6, 5, 3]


def test_stacks_of_a_competition(preprocessed: Layout) -> None:
    stacks = find_stacks(preprocessed, "train", neighbours=1)
    store, table = stacks.store, read_table(preprocessed.table("train"), [], made_by="").set_index("ID")
    assert stacks.ids == store.index["ID"].tolist()
    ids = store.index["ID"].to_numpy()
    for previous, own, following in ids[stacks.rows]:
        series = table[(table["SeriesInstanceUID"] == table["SeriesInstanceUID"][own]) & (table["reason"] == "")]
        z, at = series["z"], table["z"][own]
        in_store = z[z.index.isin(ids)]
        assert table["z"][previous] == in_store[in_store < at].max() if (in_store < at).any() else previous == own
        assert table["z"][following] == in_store[in_store > at].min() if (in_store > at).any() else following == own
    alone = find_stacks(preprocessed, "train", neighbours=0)
    assert alone.rows.tolist() == [[row] for row in range(len(ids))]
    index = next(i for i, rows in enumerate(stacks.rows) if len(set(rows)) == 3)
    image = stacks.read(index)
    for channel, row in enumerate(stacks.rows[index]):
        square = pad_to_square(to_unit(store.hounsfield(ids[row])))
        if square.shape == image.shape[:2]:
            np.testing.assert_array_equal(image[..., channel], square)


def test_a_neighbour_of_another_size_is_brought_to_the_slices(
    preprocessed: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = find_stacks(preprocessed, "train", neighbours=0)
    stacks.rows = np.array([[1, 0, 1], [0, 1, 0]])  # in the middle the slice itself
    sizes = {0: (40, 64), 1: (96, 80)}
    slices = {row: np.random.default_rng(row).integers(-200, 301, size).astype(np.int16) for row, size in sizes.items()}
    monkeypatch.setattr(stacks.store, "read", slices.__getitem__)
    small, large = (pad_to_square(to_unit(slices[row])) for row in (0, 1))
    shrunk, grown = stacks.read(0), stacks.read(1)
    np.testing.assert_array_equal(shrunk[..., 0], cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(shrunk[..., 1], small)
    np.testing.assert_array_equal(grown[..., 2], cv2.resize(small, (96, 96), interpolation=cv2.INTER_LINEAR))
    np.testing.assert_array_equal(grown[..., 1], large)


def test_neighbours_never_cross_a_fold(preprocessed: Layout) -> None:
    for fold in range(5):
        training, validation = read_split(preprocessed, fold, neighbours=2)
        assert not set(training.stacks.rows.ravel()) & set(validation.stacks.rows.ravel())


def test_what_is_trained_on_includes_the_neighbours(preprocessed: Layout) -> None:
    alone, with_neighbours = (read_split(preprocessed, 0, neighbours)[0].fingerprint() for neighbours in (0, 1))
    assert alone != with_neighbours


def test_a_table_that_lacks_the_stores_slices_is_named(preprocessed: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    write_table(read_table(preprocessed.table("test"), [], made_by="").iloc[4:], other.table("test"))
    other.store("test").symlink_to(preprocessed.store("test"))
    assert len(find_stacks(other, "test", 0)) == len(ImageStore(preprocessed.store("test")))
    with pytest.raises(UserError, match=r"test.parquet lacks \d slices of .*test; run bin/preprocess.sh again"):
        find_stacks(other, "test", 1)
