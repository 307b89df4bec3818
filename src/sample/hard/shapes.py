"""Shapes that bleeds and other findings are made of, and what they are placed by.

A place is in the frame of the atlas (mm), in the patient's undisplaced anatomy. A share is of each pixel, in [0, 1];
borders are a millimetre wide, which is what is left of them after the slab is averaged and blurred.
"""

from dataclasses import dataclass

import numpy as np

from src.sample.hard.atlas import Brain, Image, Skull, atlas
from src.sample.hard.head import Nodes

Point = tuple[float, float, float]

CENTRE: Point = (0.0, 18.0, 12.0)  # of the cavity, from which the skull is seen in directions
CALLOSUM_MM = 34.0  # half-length and height of what joins the hemispheres
CORONAL_Y = -8.0  # mm, of the coronal suture
LAMBDA: Point = (0.0, 95.0, 45.0)  # where the lambdoid suture begins; it ends at the asterion
ASTERION: Point = (55.0, 68.0, -15.0)
OCCIPITAL_Y = 55.0  # mm: what lies in front of it is not occipital


@dataclass(frozen=True)
class Fields:
    """What is known of each pixel of one thin section. All images (rows, columns)."""

    where: Nodes  # (3, rows, columns) mm in the atlas
    skull: Skull
    brain: Brain
    fluid: Image  # share of cerebrospinal fluid outside the ventricles
    ventricle: Image  # share of ventricle


def soft(inside_mm: Image, width_mm: float = 1.0) -> Image:
    """Share of a shape, from the distance to its border: mm, positive inside."""
    return np.clip(inside_mm * np.float32(1 / width_mm) + np.float32(0.5), 0.0, 1.0)


def distance(where: Nodes, centre: Point, stretch: Point = (1.0, 1.0, 1.0)) -> Image:
    """Distance from a point in mm; along an axis stretched by two, 2 mm count as one."""
    parts = ((each - c) * np.float32(1 / s) for each, c, s in zip(where, centre, stretch, strict=True))
    return np.sqrt(sum(part * part for part in parts))


def tube(where: Nodes, start: Point, end: Point) -> Image:
    """Distance from a line segment in mm."""
    axis = np.subtract(end, start).astype(np.float32)
    offsets = [each - np.float32(first) for each, first in zip(where, start, strict=True)]
    share = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / np.float32(axis @ axis), 0.0, 1.0)
    return np.sqrt(sum((o - share * a) ** 2 for o, a in zip(offsets, axis, strict=True)))


def tentorium_mm(where: Nodes) -> Image:
    """Height above the tentorium in mm."""
    x, y, z = where
    return z - (2.0 - 0.36 * (y - 40.0) - 0.42 * np.abs(x))


def plate_mm(where: Nodes, plate: str) -> Image:
    """How far inside the sutures of a bone of the vault a point is: mm, positive inside."""
    x, y, z = where
    slope = (LAMBDA[2] - ASTERION[2]) / ASTERION[0]
    behind = np.minimum((LAMBDA[2] - z - slope * np.abs(x)) * np.float32(1 / np.hypot(1, slope)), y - OCCIPITAL_Y)
    return {"frontal": CORONAL_Y - y, "temporoparietal": np.minimum(y - CORONAL_Y, -behind), "occipital": behind}[plate]


def on_inner_table(direction: Point) -> Point:
    """Where a ray from the middle of the cavity meets the skull."""
    unit = np.array(direction) / np.linalg.norm(direction)
    reach = np.arange(30.0, 115.0, 0.5)
    ray = (np.array(CENTRE)[:, None] + unit[:, None] * reach).astype(np.float32)
    depth = atlas().skull(ray[:, None]).depth[0]
    outside = np.flatnonzero(depth <= 0)
    return tuple(map(float, ray[:, outside[0] if outside.size else -1]))  # type: ignore[return-value]


def along(point: Point, outwards_mm: float) -> Point:
    """A point moved away from the middle of the cavity, or towards it where the distance is negative."""
    ray = np.subtract(point, CENTRE)
    moved = np.add(point, ray * (outwards_mm / np.linalg.norm(ray)))
    return float(moved[0]), float(moved[1]), float(moved[2])
