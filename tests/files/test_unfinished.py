from pathlib import Path

import numpy as np
import pytest

from src.files.unfinished import Unfinished

RNG = np.random.default_rng(0)


def _begun(path: Path, save_s: float = 1e9) -> tuple[Unfinished, np.ndarray]:
    values = RNG.random((2, 4, 6)).astype(np.float32)
    kept = Unfinished(path, "key", 2, 10, save_s)
    kept.add(np.array([1, 0, 2, 3]), values[:, [1, 0, 2, 3]])
    return kept, values


def test_what_is_kept_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "unfinished/test.npz"
    kept, values = _begun(path)
    assert not path.exists()
    kept.save()
    again = Unfinished(path, "key", 2, 10, 60)
    assert again.done == 4
    np.testing.assert_array_equal(again.probabilities[:, :4], values)
    assert np.isnan(again.probabilities[:, 4:]).all()
    again.delete()
    assert not path.parent.exists()
    again.delete()


def test_it_saves_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    _begun(path, save_s=0)
    assert Unfinished(path, "key", 2, 10, 60).done == 4


@pytest.mark.parametrize("damage", ["other key", "cut", "flipped", "text", "absent"])
def test_anything_else_is_begun_anew(tmp_path: Path, damage: str) -> None:
    path, key = tmp_path / "test.npz", "key"
    _begun(path)[0].save()
    data = bytearray(path.read_bytes())
    if damage == "other key":
        key = "other"
    elif damage == "cut":
        path.write_bytes(data[:-100])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "text":
        path.write_text("no zip")
    else:
        path.unlink()
    kept = Unfinished(path, key, 2, 10, 60)
    assert kept.done == 0
    assert np.isnan(kept.probabilities).all()
