"""Augmentation: albumentations transforms that keep their meaning on scaled HU, by name."""

import inspect
import os
import warnings
from difflib import get_close_matches

import cv2
import numpy as np

from src.config import TransformConf
from src.errors import UserError, first_few

# Transforms that move pixels or cover them with air. Those that change brightness or contrast would break the meaning
# of HU (some give NaN, some clip in silence); the windows' jitter stands for them. One test runs each.
ALLOWED = (
    "Affine",
    "CoarseDropout",
    "ElasticTransform",
    "GridDistortion",
    "HorizontalFlip",
    "OpticalDistortion",
    "Perspective",
    "RandomResizedCrop",
    "Rotate",
    "Transpose",
    "VerticalFlip",
)


class Augmentation:
    """A chain of transforms whose randomness is the caller's: the same seed gives the same image, in any process."""

    def __init__(self, transforms: tuple[TransformConf, ...], image_size: int) -> None:
        albumentations = _albumentations()
        steps = [_build(albumentations, transform, image_size) for transform in transforms]
        # Nothing where a crop has brought the image to its size already. Area averaging thins a small bleed when it
        # shrinks the image, where other methods would skip it.
        steps.append(albumentations.Resize(image_size, image_size, interpolation=cv2.INTER_AREA))
        self._chain = albumentations.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(rows, columns, slices) float32 in [0, 1] -> (image_size, image_size, slices) float32 in [0, 1].

        The slices of a stack move together.
        """
        self._chain.set_random_seed(seed)
        augmented: np.ndarray = self._chain(image=image)["image"]
        return augmented


def _build(albumentations, transform: TransformConf, image_size: int):  # type: ignore[no-untyped-def]
    if transform.name not in ALLOWED:
        close = get_close_matches(transform.name, ALLOWED, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(ALLOWED)}"
        raise UserError(f"augment: {transform.name} is not an allowed transform; {hint}")
    make = getattr(albumentations, transform.name)
    arguments = dict(transform.arguments)
    known = inspect.signature(make.__init__).parameters
    if "size" in known:
        arguments.setdefault("size", (image_size, image_size))
    unknown = [key for key in arguments if key not in known]
    if unknown:
        names = ", ".join(name for name in known if name != "self")
        raise UserError(f"augment: {transform.name} has no argument {first_few(unknown)}; it has {names}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return make(**arguments)
    except (TypeError, ValueError, Warning) as error:
        raise UserError(f"augment: {transform.name}: {error}") from error


def _albumentations():  # type: ignore[no-untyped-def]
    # it would look for updates over the network when imported
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
