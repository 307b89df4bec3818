from pathlib import Path

import numpy as np
import pytest

from src.files.partial_predictions import PartialPredictions

RNG = np.random.default_rng(0)


def _begun(path: Path) -> tuple[PartialPredictions, np.ndarray]:
    """Those of the first four slices of ten, and what they are."""
    values = RNG.random((2, 4, 6)).astype(np.float32)
    partial = PartialPredictions(path, "key", 2, 10)
    partial.add(values[:, :3])
    partial.add(values[:, 3:])
    assert partial.done == 4
    return partial, values


def test_what_was_saved_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "partial_predictions/test.npz"
    partial, values = _begun(path)
    assert not path.exists()
    partial.save()
    again = PartialPredictions(path, "key", 2, 10)
    assert again.done == 4
    np.testing.assert_array_equal(again.probabilities[:, :4], values)
    assert np.isnan(again.probabilities[:, 4:]).all()
    again.delete()
    assert not path.exists()
    again.delete()


def test_an_interrupted_prediction_goes_on_in_order(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    partial, first = _begun(path)
    partial.save()
    partial.add(np.ones((2, 2, 6)))  # after the save: lost
    again, rest = PartialPredictions(path, "key", 2, 10), RNG.random((2, 6, 6)).astype(np.float32)
    again.add(rest)
    assert again.done == 10
    np.testing.assert_array_equal(again.probabilities, np.concatenate([first, rest], axis=1))


@pytest.mark.parametrize("damage", ["other key", "cut", "flipped", "text", "absent"])
def test_anything_else_starts_anew(tmp_path: Path, damage: str) -> None:
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
    partial = PartialPredictions(path, key, 2, 10)
    assert partial.done == 0
    assert np.isnan(partial.probabilities).all()
