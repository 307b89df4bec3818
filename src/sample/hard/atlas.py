"""The anatomy that every hard head is a deformation of, and how it is read between its voxels.

atlas.npz holds six volumes of uint8 at 1 mm, (z, y, x) in the directions of DICOM's patient frame; `make_atlas` makes
it from Colin27, whose notice is in ATLAS-LICENSE. Coordinates are mm in MNI space with DICOM's directions: x to the
left, y to the back, z up; the origin is the anterior commissure.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]  # float32, but where a scalar of numpy's has widened it

ATLAS_PATH = Path(__file__).with_name("atlas.npz")
ORIGIN_MM = (-90.0, -91.0, -71.0)  # x, y, z of the first voxel
MM_PER_STEP, ZERO_MM = 0.125, 8.0  # of stored distances
GRAIN_MM = (1.1, 5.0)  # correlation lengths of the two random fields


@dataclass(frozen=True)
class Skull:
    """What stays where it is when the brain gives way. All (rows, columns)."""

    outside: Image  # HU of all that is neither bone nor within the skull: air, skin, fat, muscle, eyes
    bone: Image  # mm below the surface of the nearest bone, negative outside it; from -4
    depth: Image  # mm below the inner table, within -4 .. 23
    dura: Image  # share of falx, tentorium and venous sinus


@dataclass(frozen=True)
class Brain:
    """What gives way to a mass. All (rows, columns)."""

    tissue: Image  # 0 fluid, about 0.55 grey matter, 1 white matter
    ventricle: Image  # mm below the wall of a ventricle, negative outside it; from -8
    grain: Image  # random field of unit variance, fine
    patch: Image  # random field of unit variance, coarse


class Atlas:
    """Volumes laid out as mosaics of sections, so that OpenCV reads four of them at once."""

    def __init__(self) -> None:
        """Read the file."""
        with np.load(ATLAS_PATH) as stored:
            volumes = {name: stored[name] for name in stored.files}
        shape = volumes["bone"].shape
        rng = np.random.default_rng(27)
        fields = []
        for mm in GRAIN_MM:
            field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), mm)
            fields.append(np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8))
        self.shape = shape
        self.tiles = int(np.ceil(np.sqrt(shape[0])))  # sections beside each other
        self.skull_mosaic = self._mosaic([volumes[name] for name in ("outside", "bone", "cavity", "dura")])
        self.brain_mosaic = self._mosaic([volumes["tissue"], volumes["ventricle"], *fields])
        number = np.arange(shape[0] + 1)
        self._left = (number % self.tiles * shape[2]).astype(np.float32)
        self._top = (number // self.tiles * shape[1]).astype(np.float32)

    def _mosaic(self, volumes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        planes, rows, columns = self.shape
        padded = np.zeros((self.tiles**2, rows, columns, len(volumes)), dtype=np.uint8)
        padded[:planes] = np.stack(volumes, axis=-1)
        grid = padded.reshape(self.tiles, self.tiles, rows, columns, -1)
        return np.ascontiguousarray(grid.swapaxes(1, 2).reshape(self.tiles * rows, self.tiles * columns, -1))

    def _read(self, mosaic: NDArray[np.uint8], where: Image) -> list[NDArray[Any]]:
        """Interpolate linearly: where (3, rows, columns) mm to four volumes' values, (rows, columns) each."""
        last = self.shape[::-1]
        x, y, z = (np.clip(where[i] - np.float32(ORIGIN_MM[i]), 0, np.float32(last[i] - 1.001)) for i in range(3))
        below = z.astype(np.int32)
        share = z - below.astype(np.float32)
        lower, upper = (
            cv2.remap(mosaic, x + self._left.take(number), y + self._top.take(number), cv2.INTER_LINEAR)
            for number in (below, below + 1)
        )
        return [np.asarray(each) for each in cv2.split(cv2.blendLinear(lower, upper, np.float32(1.0) - share, share))]

    def skull(self, where: Image) -> Skull:
        """Read what is fixed. where: (3, rows, columns) mm."""
        outside, bone, depth, dura = self._read(self.skull_mosaic, where)
        return Skull(_decode(outside, _SOFT_HU), _decode(bone, _MM), _decode(depth, _MM), _decode(dura, _SHARE))

    def brain(self, where: Image) -> Brain:
        """Read what gives way. where: (3, rows, columns) mm."""
        tissue, ventricle, grain, patch = self._read(self.brain_mosaic, where)
        return Brain(_decode(tissue, _SHARE), _decode(ventricle, _MM), _decode(grain, _FIELD), _decode(patch, _FIELD))


def _decode(steps: NDArray[Any], meaning: Image) -> Image:
    return np.asarray(cv2.LUT(steps, meaning), dtype=np.float32)


# What the steps of uint8 stand for, as `make_atlas` encodes them
_STEPS = np.arange(256, dtype=np.float32)
_SOFT_HU = np.minimum(_STEPS * 10 - 1000, _STEPS * 2 - 304)
_MM = _STEPS * np.float32(MM_PER_STEP) - np.float32(ZERO_MM)
_SHARE = _STEPS * np.float32(1 / 252)
_FIELD = (_STEPS - 128) * np.float32(1 / 40)


@cache
def atlas() -> Atlas:
    """The atlas, read once in a process."""
    return Atlas()
