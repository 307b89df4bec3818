"""Augmentation by albumentations transforms, chosen by name from those that are valid on scaled HU."""

import inspect
import os
import warnings
from difflib import get_close_matches

import cv2
import numpy as np

from src.config import TransformConf
from src.errors import UserError, first_few

# Transforms that move pixels or cover them with air. Those that change brightness or contrast would falsify HU (some
# give NaN, some clip silently); the windows' jitter replaces them. A test runs each of these transforms.
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
    """A chain of transforms with a seed from the caller: the same seed gives the same image in any process."""

    def __init__(self, transforms: tuple[TransformConf, ...], image_size: int) -> None:
        albumentations = _albumentations()
        steps = [_build(albumentations, transform, image_size) for transform in transforms]
        # No change where a crop has already given the image its size. Area averaging makes a small bleed fainter when
        # it shrinks the image, whereas other methods can lose it.
        steps.append(albumentations.Resize(image_size, image_size, interpolation=cv2.INTER_AREA))
        self._chain = albumentations.Compose(steps)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(rows, columns, slices) float32 in [0, 1] -> (image_size, image_size, slices) float32 in [0, 1].

        All slices of a stack are transformed alike.
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
    # otherwise its import looks for updates over the network
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
