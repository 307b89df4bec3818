from pathlib import Path

import cv2
import numpy as np
import pytest

from src.classify.dataset import read_fold_split
from src.classify.inputs import find_inputs, network_input, pad_to_square, square_unit, stack_slices
from src.config import Config
from src.ct.hounsfield import to_unit
from src.errors import UserError
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table, write_table


def test_squares_of_air() -> None:
    padded = pad_to_square(np.ones((4, 2, 3), dtype=np.float32))
    assert padded.shape == (4, 4, 3)
    for i in range(3):
        assert padded[..., i].tolist() == [[0, 1, 1, 0]] * 4
    assert pad_to_square(np.ones((3, 3, 1))).tolist() == np.ones((3, 3, 1)).tolist()
    assert pad_to_square(np.ones((1, 3, 1), dtype=np.int16), air=-200)[..., 0].tolist() == [
        [-200] * 3,
        [1] * 3,
        [-200] * 3,
    ]


def test_a_slice_is_read_with_its_adjacent_ones(preprocessed: Layout) -> None:
    inputs = find_inputs(preprocessed, "train", neighbours=1)
    store, table = inputs.store, read_table(preprocessed.table("train"), [], step="").set_index("ID")
    assert inputs.ids == store.index["ID"].tolist()
    ids = store.index["ID"].to_numpy()
    for previous, own, following in ids[inputs.rows]:
        series = table[(table["SeriesInstanceUID"] == table["SeriesInstanceUID"][own]) & (table["reason"] == "")]
        z, at = series["z"], table["z"][own]
        in_store = z[z.index.isin(ids)]
        assert table["z"][previous] == in_store[in_store < at].max() if (in_store < at).any() else previous == own
        assert table["z"][following] == in_store[in_store > at].min() if (in_store > at).any() else following == own
    alone = find_inputs(preprocessed, "train", neighbours=0)
    assert alone.rows.tolist() == [[row] for row in range(len(ids))]
    index = next(i for i, rows in enumerate(inputs.rows) if len(set(rows)) == 3)
    image = inputs.read(index)
    for channel, row in enumerate(inputs.rows[index]):
        hu = store.hounsfield(ids[row])
        if hu.shape == image.shape[:2]:
            np.testing.assert_array_equal(image[..., channel], hu)


def test_a_neighbour_of_another_size_is_brought_to_the_slices(
    preprocessed: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = find_inputs(preprocessed, "train", neighbours=0)
    inputs.rows = np.array([[1, 0, 1], [0, 1, 0]])  # in the middle the slice itself
    sizes = {0: (40, 64), 1: (96, 80)}
    slices = {row: np.random.default_rng(row).integers(-200, 301, size).astype(np.int16) for row, size in sizes.items()}
    monkeypatch.setattr(inputs.store, "read", slices.__getitem__)
    small, large = (pad_to_square(to_unit(slices[row])[..., None])[..., 0] for row in (0, 1))
    hu = inputs.read(0), inputs.read(1)
    assert [each.dtype for each in hu] == [np.int16] * 2
    shrunk, grown = map(to_unit, hu)
    within_1_hu = {"rtol": 0, "atol": 0.002}
    np.testing.assert_allclose(shrunk[..., 0], cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA), **within_1_hu)
    np.testing.assert_array_equal(shrunk[..., 1], small)
    np.testing.assert_allclose(
        grown[..., 2], cv2.resize(small, (96, 96), interpolation=cv2.INTER_LINEAR), **within_1_hu
    )
    np.testing.assert_array_equal(grown[..., 1], large)


def test_a_networks_input_is_square_and_in_the_unit_interval(config: Config) -> None:
    slices = [np.random.default_rng(i).integers(-200, 301, (40, 64)).astype(np.int16) for i in range(3)]
    hu = stack_slices(slices)
    assert (hu.shape, hu.dtype) == ((40, 64, 3), np.int16)
    for i in range(3):
        np.testing.assert_array_equal(hu[..., i], slices[i])
    assert stack_slices(slices[:1]).shape == (40, 64, 1)
    square = square_unit(hu)
    assert (square.shape, square.dtype) == ((64, 64, 3), np.float32)
    np.testing.assert_array_equal(square[12:52], to_unit(hu))
    assert not square[:12].any()
    assert not square[52:].any()
    at_size = network_input(hu, config.model_copy(update={"image_size": 64}))
    np.testing.assert_array_equal(at_size, np.moveaxis(square, -1, 0))
    smaller = network_input(hu, config.model_copy(update={"image_size": 32}))
    assert (smaller.shape, smaller.dtype) == ((3, 32, 32), np.float32)
    for i in range(3):
        np.testing.assert_allclose(
            smaller[i], cv2.resize(square[..., i], (32, 32), interpolation=cv2.INTER_AREA), atol=1e-6
        )


def test_neighbours_never_cross_a_fold(preprocessed: Layout) -> None:
    for fold in range(5):
        training, validation = read_fold_split(preprocessed, fold, neighbours=2)
        assert not set(training.inputs.rows.ravel()) & set(validation.inputs.rows.ravel())


def test_the_training_datas_fingerprint_includes_the_neighbours(preprocessed: Layout) -> None:
    alone, with_neighbours = (read_fold_split(preprocessed, 0, neighbours)[0].fingerprint() for neighbours in (0, 1))
    assert alone != with_neighbours


def test_a_table_that_lacks_the_stores_slices_is_named(preprocessed: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    write_table(read_table(preprocessed.table("test"), [], step="").iloc[4:], other.table("test"))
    other.store("test").symlink_to(preprocessed.store("test"))
    assert len(find_inputs(other, "test", 0)) == len(ImageStore(preprocessed.store("test")))
    with pytest.raises(UserError, match=r"test.parquet lacks \d slices: ") as lacking:
        find_inputs(other, "test", 1)
    assert lacking.value.step == "preprocess"
