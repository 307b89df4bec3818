import numpy as np
import pytest

from src.classify.augment import ALLOWED, Augmentation
from src.config import TransformConf, load_config
from src.errors import UserError

IMAGE = np.random.default_rng(0).random((80, 80, 1), dtype=np.float32)


def _augmentation(*transforms: dict, size: int = 64) -> Augmentation:
    return Augmentation(tuple(TransformConf(**transform) for transform in transforms), size)


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_transforms_keep_the_meaning_of_hu(name: str) -> None:
    # moving pixels makes nothing brighter or darker than it was, but for air that comes into view
    flat = np.full((80, 80, 3), 0.5, dtype=np.float32)
    augment = _augmentation({"name": name, "p": 1.0})
    for seed in range(5):
        image = augment(flat, seed=seed)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 0.5 + 1e-6
        assert np.median(image) == pytest.approx(0.5)


def test_the_same_seed_gives_the_same_image() -> None:
    conf = load_config("conf/se_resnext50_32x4d.yaml")  # type: ignore[arg-type]
    augment, again = Augmentation(conf.augment, 64), Augmentation(conf.augment, 64)
    first = augment(IMAGE, seed=5)
    other = augment(IMAGE, seed=6)
    np.testing.assert_array_equal(again(IMAGE, seed=5), first)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("name", ALLOWED)
def test_the_slices_of_an_input_move_together(name: str) -> None:
    augment = _augmentation({"name": name, "p": 1.0})
    image = augment(np.concatenate([IMAGE, IMAGE / 2], axis=-1), seed=3)
    np.testing.assert_allclose(image[..., 0], 2 * image[..., 1], atol=1e-5)


def test_rotation_brings_air_into_view() -> None:
    bright = np.ones((80, 80, 1), dtype=np.float32)
    corners = [
        _augmentation({"name": "Rotate", "limit": [30, 30], "p": 1.0})(bright, seed)[0, 0, 0] for seed in range(3)
    ]
    assert corners == [0, 0, 0]


def test_nothing_but_the_size_without_transforms() -> None:
    np.testing.assert_array_equal(_augmentation(size=80)(IMAGE, seed=0), IMAGE)
    # shrinking by a whole factor averages
    small = _augmentation(size=40)(IMAGE, seed=0)
    np.testing.assert_allclose(small, IMAGE.reshape(40, 2, 40, 2, 1).mean(axis=(1, 3)), atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"name": "RandomGamma"}, "RandomGamma is not an allowed transform; expected one of Affine"),
        ({"name": "HorizontalFlipp"}, "did you mean HorizontalFlip"),
        ({"name": "Rotate", "limits": 3}, "Rotate has no argument limits; it has limit"),
        ({"name": "Rotate", "limit": "far"}, "augment: Rotate: "),
    ],
)
def test_mistakes_are_named(transform: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        _augmentation(transform)
