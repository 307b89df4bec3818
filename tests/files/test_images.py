import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.images import (
    ImageStore,
    StoredSlice,
    pixel_hash,
    read_series_rows,
    series_file,
    write_series,
)
from src.files.tables import write_table


def _series(folder: Path, n: int = 3, shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(-200, 301, (n, *shape), dtype=np.int16)
    slices = [StoredSlice(f"ID_{i}", f"hash{i}", i / 10) for i in range(n)]
    write_series(folder / "s.b2nd", pixels, slices, source="a")
    return pixels


def _store(folder: Path) -> ImageStore:
    rows = read_series_rows(folder / "s.b2nd", "a")
    assert rows is not None
    write_table(rows, folder / "index.parquet")
    return ImageStore(folder)


def test_slices_come_back_exactly_and_alone(tmp_path: Path) -> None:
    pixels = _series(tmp_path)
    store = _store(tmp_path)
    for i in (2, 0, 1):
        hu = store.hounsfield(f"ID_{i}")
        assert hu.dtype == np.int16
        np.testing.assert_array_equal(hu, pixels[i])
    assert "ID_1" in store
    assert "ID_9" not in store
    # worker processes get the store by pickling
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).hounsfield("ID_1"), pixels[1])  # noqa: S301


def test_a_file_carries_its_rows_of_the_index(tmp_path: Path) -> None:
    _series(tmp_path)
    rows = read_series_rows(tmp_path / "s.b2nd", "a")
    assert rows is not None
    expected = {
        "ID": ["ID_0", "ID_1", "ID_2"],
        "file": ["s.b2nd"] * 3,
        "position": [0, 1, 2],
        "rows": [40] * 3,
        "columns": [30] * 3,
        "pixel_hash": ["hash0", "hash1", "hash2"],
        "brain_share": [0.0, 0.1, 0.2],
    }
    pd.testing.assert_frame_equal(rows, pd.DataFrame(expected), check_dtype=False)


def test_equal_slices_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _series(tmp_path / name)
    assert (tmp_path / "one/s.b2nd").read_bytes() == (tmp_path / "two/s.b2nd").read_bytes()


def test_the_fingerprint_is_of_ids_order_and_pixels(tmp_path: Path) -> None:
    _series(tmp_path)
    store = _store(tmp_path)
    known = store.fingerprint(["ID_0", "ID_1"])
    assert store.fingerprint(["ID_0", "ID_1"]) == known
    assert store.fingerprint(["ID_1", "ID_0"]) != known
    assert store.fingerprint(["ID_0"]) != known
    store.index.loc[1, "pixel_hash"] = "other"
    assert store.fingerprint(["ID_0", "ID_1"]) != known


def test_files_of_another_input_or_damaged_are_not_taken(tmp_path: Path) -> None:
    assert read_series_rows(tmp_path / "s.b2nd", "a") is None
    _series(tmp_path)
    assert read_series_rows(tmp_path / "s.b2nd", "b") is None
    (tmp_path / "s.b2nd").write_bytes((tmp_path / "s.b2nd").read_bytes()[:100])
    assert read_series_rows(tmp_path / "s.b2nd", "a") is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index.parquet is missing; bin/preprocess.sh makes it"):
        ImageStore(tmp_path)
    _series(tmp_path)
    store = _store(tmp_path)
    with pytest.raises(UserError, match=r"1 slices are not in the image store .*: ID_77; run bin/preprocess.sh"):
        store.hounsfield("ID_77")
    (tmp_path / "s.b2nd").unlink()
    with pytest.raises(UserError, match=r"s.b2nd is damaged"):
        store.hounsfield("ID_0")


def test_pixel_hash_is_of_values_and_shape() -> None:
    stored = np.arange(6, dtype=np.int16)
    assert pixel_hash(stored.reshape(2, 3)) == pixel_hash(stored.astype(np.uint16).reshape(2, 3))
    assert pixel_hash(stored.reshape(2, 3)) != pixel_hash(stored.reshape(3, 2))
    assert pixel_hash(stored.reshape(2, 3)) != pixel_hash(stored[::-1].reshape(2, 3))


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", ".hidden", "a/b", "x" * 500, "ID_é"])
def test_no_series_uid_leads_out_of_the_folder(uid: str) -> None:
    name = series_file(uid, 512, 512)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) < 120
    assert name != series_file(uid + "y", 512, 512)


def test_usual_uids_stay_readable() -> None:
    assert series_file("ID_0a1b2c3d4e", 512, 464) == "ID_0a1b2c3d4e_512x464.b2nd"
