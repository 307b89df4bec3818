"""The anatomy from which every hard head is deformed, and its interpolation between voxels.

atlas.npz holds six volumes of uint8 at 1 mm, (z, y, x) in the directions of DICOM's patient frame. `make_atlas` makes
it from Colin27, whose licence is in ATLAS-LICENSE. Coordinates are mm in MNI space with DICOM's directions: x to the
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

Image = NDArray[np.floating[Any]]  # float32, except where a NumPy scalar has widened it

ATLAS_PATH = Path(__file__).with_name("atlas.npz")
ORIGIN_MM = (-90.0, -91.0, -71.0)  # x, y, z of the first voxel
MM_PER_STEP, ZERO_MM = 0.125, 8.0  # how distances are stored
GRAIN_MM = (1.1, 5.0)  # correlation lengths of the two random fields


@dataclass(frozen=True)
class Skull:
    """The anatomy that a mass does not displace. All (rows, columns)."""

    outside: Image  # HU of everything outside the skull except bone: air, skin, fat, muscle, eyes
    bone: Image  # mm below the surface of the nearest bone, negative outside it; at least -4
    depth: Image  # mm below the inner table, limited to -4 .. 23
    dura: Image  # fraction that is falx, tentorium or venous sinus


@dataclass(frozen=True)
class Brain:
    """The anatomy that a mass displaces. All (rows, columns)."""

    tissue: Image  # 0 fluid, about 0.55 grey matter, 1 white matter
    ventricle: Image  # mm below the wall of a ventricle, negative outside it; at least -8
    grain: Image  # random field of unit variance, fine
    patch: Image  # random field of unit variance, coarse


class Atlas:
    """Volumes laid out as mosaics of sections, so that OpenCV can interpolate four of them at once."""

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
        self.tiles = int(np.ceil(np.sqrt(shape[0])))  # sections per row of the mosaic
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
        """Interpolate four volumes linearly at `where`, (3, rows, columns) mm: their values, (rows, columns) each."""
        last = self.shape[::-1]
        x, y, z = (np.clip(where[i] - np.float32(ORIGIN_MM[i]), 0, np.float32(last[i] - 1.001)) for i in range(3))
        below = z.astype(np.int32)
        fraction = z - below.astype(np.float32)
        lower, upper = (
            cv2.remap(mosaic, x + self._left.take(number), y + self._top.take(number), cv2.INTER_LINEAR)
            for number in (below, below + 1)
        )
        blended = cv2.blendLinear(lower, upper, np.float32(1.0) - fraction, fraction)
        return [np.asarray(each) for each in cv2.split(blended)]

    def skull(self, where: Image) -> Skull:
        """Read the anatomy that is not displaced. where: (3, rows, columns) mm."""
        outside, bone, depth, dura = self._read(self.skull_mosaic, where)
        return Skull(_decode(outside, _SOFT_HU), _decode(bone, _MM), _decode(depth, _MM), _decode(dura, _FRACTION))

    def brain(self, where: Image) -> Brain:
        """Read the anatomy that is displaced. where: (3, rows, columns) mm."""
        tissue, ventricle, grain, patch = self._read(self.brain_mosaic, where)
        fields = _decode(grain, _FIELD), _decode(patch, _FIELD)
        return Brain(_decode(tissue, _FRACTION), _decode(ventricle, _MM), *fields)


def _decode(steps: NDArray[Any], meaning: Image) -> Image:
    return np.asarray(cv2.LUT(steps, meaning), dtype=np.float32)


# The meaning of the uint8 values, as encoded by `make_atlas`
_STEPS = np.arange(256, dtype=np.float32)
_SOFT_HU = np.minimum(_STEPS * 10 - 1000, _STEPS * 2 - 304)
_MM = _STEPS * np.float32(MM_PER_STEP) - np.float32(ZERO_MM)
_FRACTION = _STEPS * np.float32(1 / 252)
_FIELD = (_STEPS - 128) * np.float32(1 / 40)


@cache
def atlas() -> Atlas:
    """Return the atlas, which is read once per process."""
    return Atlas()
