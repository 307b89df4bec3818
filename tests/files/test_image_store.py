import pickle
import zlib
from pathlib import Path

import blosc2
import numpy as np
import pytest

from src.errors import UserError
from src.files import image_store
from src.files.image_store import (
    ImageStore,
    SliceToStore,
    StoredSlice,
    check_store,
    make_store,
    pixel_hash,
    read_series_rows,
    series_file,
    write_series,
)
from src.files.tables import write_table
from src.preprocess.create_dataset import _index_table

N = 3


def _pixels(shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.random.default_rng(0).integers(-200, 301, (N, *shape), dtype=np.int16)


def _series(folder: Path, pixels: np.ndarray | None = None, most: int = N) -> list[StoredSlice]:
    pixels = _pixels() if pixels is None else pixels
    slices = [SliceToStore(f"ID_{i}", pixels[i], f"hash{i}", i / 10, 1000 + i) for i in range(len(pixels))]
    return write_series(folder / "s.b2nd", slices, most=most, shape=pixels.shape[1:], source="a")


def _store(folder: Path) -> ImageStore:
    make_store(folder)
    write_table(_index_table(_series(folder)), folder / "index.parquet")
    return ImageStore(folder)


def test_slices_come_back_exactly_and_alone(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for i in (2, 0, 1):
        hu = store.hounsfield(f"ID_{i}")
        assert hu.dtype == np.int16
        np.testing.assert_array_equal(hu, _pixels()[i])
    assert "ID_1" in store
    assert "ID_9" not in store
    # worker processes get the store by pickling
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).hounsfield("ID_1"), _pixels()[1])  # noqa: S301


@pytest.mark.parametrize("shape", [(512, 512), (404, 404), (467, 100), (7, 3000), (1, 1)])
def test_any_shape_is_kept_as_any_blosc2_reads_it(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = _pixels(shape)
    _series(tmp_path, pixels, most=N + 4)  # four that could not be read
    frame = blosc2.open(str(tmp_path / "s.b2nd"), mode="r")
    assert frame.shape == pixels.shape
    np.testing.assert_array_equal(frame[:], pixels)


def test_a_file_carries_its_rows_of_the_index(tmp_path: Path) -> None:
    written = _series(tmp_path)
    assert read_series_rows(tmp_path / "s.b2nd", "a") == written
    first, second = written[:2]
    assert first == ("ID_0", "s.b2nd", 0, 40, 30, "hash0", 0.0, first.checksum, 1000)
    assert second == ("ID_1", "s.b2nd", 1, 40, 30, "hash1", 0.1, second.checksum, 1001)
    assert first.checksum != second.checksum


def test_no_slices_make_no_file(tmp_path: Path) -> None:
    assert _series(tmp_path, _pixels()[:0]) == []
    assert list(tmp_path.iterdir()) == []


def test_equal_slices_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _series(tmp_path / name)
    assert (tmp_path / "one/s.b2nd").read_bytes() == (tmp_path / "two/s.b2nd").read_bytes()


def _fingerprint(store: ImageStore, *slice_ids: str) -> str:
    return store.fingerprint(store.rows(slice_ids))


def test_the_fingerprint_is_of_ids_order_and_pixels(tmp_path: Path) -> None:
    store = _store(tmp_path)
    known = _fingerprint(store, "ID_0", "ID_1")
    assert _fingerprint(store, "ID_0", "ID_1") == known
    assert _fingerprint(store, "ID_1", "ID_0") != known
    assert _fingerprint(store, "ID_0") != known
    store.index.loc[1, "pixel_hash"] = "other"
    assert _fingerprint(store, "ID_0", "ID_1") != known


def test_files_of_another_input_are_not_taken(tmp_path: Path) -> None:
    assert read_series_rows(tmp_path / "s.b2nd", "a") is None
    _series(tmp_path)
    assert read_series_rows(tmp_path / "s.b2nd", "b") is None
    (tmp_path / "s.b2nd").rename(tmp_path / "t.b2nd")
    assert read_series_rows(tmp_path / "t.b2nd", "a") is None


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.b2nd"
    written, whole = _series(tmp_path), path.read_bytes()
    for at in [*range(400), *range(400, len(whole), 37), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        assert read_series_rows(path) is None, at
    for end in (0, 10, 300, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert read_series_rows(path) is None
    path.write_bytes(whole + b"\0")
    assert read_series_rows(path) is None
    path.write_bytes(whole)
    assert read_series_rows(path) == written


def test_a_flipped_bit_in_a_header_gives_the_slice_or_its_name(tmp_path: Path) -> None:
    """Some of these bits claim slices of terabytes."""
    store, path = _store(tmp_path), tmp_path / "s.b2nd"
    whole = path.read_bytes()
    for at in range(60, 240):
        for bit in (0, 3, 7):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = store.hounsfield("ID_1")
            except UserError as error:
                assert "s.b2nd is damaged" in str(error)  # noqa: PT017 - either is right
            else:
                np.testing.assert_array_equal(found, _pixels()[1])


def test_a_damaged_slice_is_never_handed_out(tmp_path: Path) -> None:
    store, path = _store(tmp_path), tmp_path / "s.b2nd"
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 61):
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(store.hounsfield("ID_1"), _pixels()[1])  # the damage is elsewhere
        except UserError as error:
            assert f"{path} is damaged" in str(error)  # noqa: PT017 - either is right
            refused += 1
    assert refused > 5


def test_a_file_in_place_of_another_is_noticed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _series(tmp_path, _pixels() + np.int16(1))  # sound by itself
    with pytest.raises(UserError, match="slice ID_1 does not have its checksum"):
        store.hounsfield("ID_1")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index.parquet is missing") as missing:
        ImageStore(tmp_path)
    store = _store(tmp_path)
    with pytest.raises(UserError, match=r"1 slices are not in the image store .*: ID_77$") as lacking:
        store.hounsfield("ID_77")
    (tmp_path / "s.b2nd").unlink()
    with pytest.raises(UserError, match=r"s.b2nd is damaged") as damaged:
        store.hounsfield("ID_0")
    assert missing.value.step == lacking.value.step == damaged.value.step == "preprocess"


def test_a_store_of_another_format_says_so(tmp_path: Path) -> None:
    _store(tmp_path)
    (tmp_path / "store.json").write_text('{"format": 3}')
    expected = (
        f"{tmp_path} is an image store of format 3, this version reads and writes format {image_store.FORMAT_VERSION}"
    )
    for attempt in (check_store, make_store, ImageStore):
        with pytest.raises(UserError, match=expected):
            attempt(tmp_path)
    (tmp_path / "store.json").unlink()
    (tmp_path / "s.b2nd").write_bytes(b"as the first format was, without a checksum")
    for attempt in (check_store, make_store, ImageStore):
        with pytest.raises(UserError, match="of format 1"):
            attempt(tmp_path)


@pytest.mark.parametrize("damage", ["not JSON", "", "[]", None])
def test_a_lost_note_of_the_format_condemns_no_store(tmp_path: Path, damage: str | None) -> None:
    store = _store(tmp_path)
    about = tmp_path / "store.json"
    whole = about.read_text()
    if damage is None:
        about.unlink()
    else:
        about.write_text(damage)
    assert ImageStore(tmp_path).index.equals(store.index)
    make_store(tmp_path)
    assert about.read_text() == whole


def test_pixel_hash_is_of_values_and_shape() -> None:
    stored = np.arange(6, dtype=np.int16)
    known = pixel_hash(stored.reshape(2, 3))
    for kind in (np.uint16, np.int32, np.uint32, np.uint8, np.int8, ">i2"):
        assert pixel_hash(stored.astype(kind).reshape(2, 3)) == known
    assert pixel_hash(stored.reshape(3, 2)) != known
    assert pixel_hash(stored[::-1].reshape(2, 3)) != known
    high = np.array([[40000, 1]])
    assert pixel_hash(high.astype(np.uint16)) == pixel_hash(high.astype(np.int32))
    assert pixel_hash(high.astype(np.uint16)) != pixel_hash(high.astype(np.uint16).view(np.int16))


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", ".hidden", "a/b", "x" * 500, "ID_é"])
def test_no_series_uid_leads_out_of_the_folder(uid: str) -> None:
    name = series_file(uid, 512, 512)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) < 120
    assert name != series_file(uid + "y", 512, 512)
    # nor may a UID be made that leads to the file of another
    assert series_file(name.split("_512")[0], 512, 512) != name
    assert series_file("1.2~2", 8, 8) == "1.2~2_8x8.b2nd"


def test_usual_uids_stay_readable() -> None:
    assert series_file("ID_0a1b2c3d4e", 512, 464) == "ID_0a1b2c3d4e_512x464.b2nd"
    assert series_file("ID_0a1b2c3d4e", 512, 464, 2) == "ID_0a1b2c3d4e_512x464.part2.b2nd"


def test_incompressible_slices_are_kept_too(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-200, 301, (N, 512, 512), dtype=np.int16)
    _series(tmp_path, noise)
    rows = read_series_rows(tmp_path / "s.b2nd")
    assert rows is not None
    assert zlib.crc32(blosc2.open(str(tmp_path / "s.b2nd"), mode="r")[2].tobytes()) == zlib.crc32(noise[2].tobytes())
