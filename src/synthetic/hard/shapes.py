"""The shapes of bleeds and other findings, and the landmarks used to place them.

Positions are in the coordinates of the atlas (mm), in the patient's undisplaced anatomy. Fractions are of each pixel,
in [0, 1]. Borders are one millimetre wide, because averaging over the slice and blurring leave no sharper ones.
"""

from dataclasses import dataclass

import numpy as np

from src.synthetic.hard.atlas import Brain, Image, Skull, atlas
from src.synthetic.hard.head import Nodes

Point = tuple[float, float, float]

CENTRE: Point = (0.0, 18.0, 12.0)  # of the cavity; directions to the skull start here
CALLOSUM_MM = 34.0  # half-length and height of the corpus callosum
CORONAL_Y = -8.0  # mm, of the coronal suture
LAMBDA: Point = (0.0, 95.0, 45.0)  # the lambdoid suture runs from lambda to the asterion
ASTERION: Point = (55.0, 68.0, -15.0)
OCCIPITAL_Y = 55.0  # mm; nothing in front of it is occipital


@dataclass(frozen=True)
class Fields:
    """The anatomy at each pixel of one thin section. All images (rows, columns)."""

    where: Nodes  # (3, rows, columns) mm in the atlas
    skull: Skull
    brain: Brain
    fluid: Image  # fraction that is cerebrospinal fluid outside the ventricles
    ventricle: Image  # fraction that is ventricle


def soft(inside_mm: Image, width_mm: float = 1.0) -> Image:
    """Return the fraction of each pixel inside a shape, from the distance to its border (mm, positive inside)."""
    return np.clip(inside_mm * np.float32(1 / width_mm) + np.float32(0.5), 0.0, 1.0)


def distance(where: Nodes, centre: Point, stretch: Point = (1.0, 1.0, 1.0)) -> Image:
    """Return the distance from a point in mm. Along an axis with a stretch of 2, 2 mm count as 1 mm."""
    parts = ((each - c) * np.float32(1 / s) for each, c, s in zip(where, centre, stretch, strict=True))
    return np.sqrt(sum(part * part for part in parts))


def tube(where: Nodes, start: Point, end: Point) -> Image:
    """Return the distance from a line segment in mm."""
    axis = np.subtract(end, start).astype(np.float32)
    offsets = [each - np.float32(first) for each, first in zip(where, start, strict=True)]
    fraction = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / np.float32(axis @ axis), 0.0, 1.0)
    return np.sqrt(sum((o - fraction * a) ** 2 for o, a in zip(offsets, axis, strict=True)))


def tentorium_mm(where: Nodes) -> Image:
    """Return the height above the tentorium in mm."""
    x, y, z = where
    return z - (2.0 - 0.36 * (y - 40.0) - 0.42 * np.abs(x))


def plate_mm(where: Nodes, plate: str) -> Image:
    """Return the distance from the sutures that border a bone of the vault: mm, positive inside the bone."""
    x, y, z = where
    slope = (LAMBDA[2] - ASTERION[2]) / ASTERION[0]
    behind = np.minimum((LAMBDA[2] - z - slope * np.abs(x)) * np.float32(1 / np.hypot(1, slope)), y - OCCIPITAL_Y)
    return {"frontal": CORONAL_Y - y, "temporoparietal": np.minimum(y - CORONAL_Y, -behind), "occipital": behind}[plate]


def on_inner_table(direction: Point) -> Point:
    """Return the point where a ray from CENTRE meets the skull."""
    unit = np.array(direction) / np.linalg.norm(direction)
    reach = np.arange(30.0, 115.0, 0.5)
    ray = (np.array(CENTRE)[:, None] + unit[:, None] * reach).astype(np.float32)
    depth = atlas().skull(ray[:, None]).depth[0]
    outside = np.flatnonzero(depth <= 0)
    return tuple(map(float, ray[:, outside[0] if outside.size else -1]))  # type: ignore[return-value]


def along(point: Point, outwards_mm: float) -> Point:
    """Move a point away from CENTRE, or towards it if the distance is negative."""
    ray = np.subtract(point, CENTRE)
    moved = np.add(point, ray * (outwards_mm / np.linalg.norm(ray)))
    return float(moved[0]), float(moved[1]), float(moved[2])
