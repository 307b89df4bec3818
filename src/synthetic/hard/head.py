"""One patient's head: a deformation of the atlas, and the densities of its tissues.

Every head is that of Colin27, possibly mirrored, stretched, bent by a smooth random field and aged. This cannot give a
different pattern of gyri; docs/hard.md lists the limits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from src.synthetic.hard.atlas import Brain, Image, Skull

Nodes = NDArray[np.floating[Any]]  # (3, ...) mm, or (...) for a scalar

MEAN_SIZE = (0.955, 0.91, 0.93)  # ratio of head to atlas: MNI space is larger than life, and Colin's head is long
SKULL_NODES_MM, BRAIN_NODES_MM = 44.0, 17.0  # node spacing of the random fields that bend skull and brain
FIELD_MM = 260.0  # side of the cube filled by those fields
# tissue coordinate of the atlas -> HU, before adjustment for age and patient
TISSUE_HU = ((0.0, 7.0), (0.14, 9.0), (0.3, 22.5), (0.45, 34.5), (0.58, 37.5), (0.74, 34.0), (0.9, 28.5), (1.0, 27.5))
_STEPS = 1024  # length of the lookup table of tissue
VENOUS_HU, LINING_HU = 52.0, 44.0
SEPTUM_FROM_MM = 4.0  # z above which a septum separates the lateral ventricles
MARROW_MM = (1.2, 2.4)  # depth in bone at which compact bone ends and spongy bone begins
SPONGY_BONE_HU, COMPACT_BONE_HU = 700.0, 1450.0


@dataclass(frozen=True)
class Head:
    """A patient's anatomy, in the coordinates of the atlas."""

    mirrored: bool
    scale: tuple[float, float, float]  # ratio of the patient's head to the atlas, along x, y, z
    shear: float  # of one side against the other (plagiocephaly)
    skull_bend_mm: float  # standard deviation of the random field that bends the whole head
    brain_bend_mm: float  # of the finer field that bends the brain within the skull
    seed: int  # of both fields
    atrophy: float  # 0 a young brain, 1 a very old one: how far fluid has replaced tissue
    ventricle_mm: float  # outward shift of the ventricle walls
    skull_mm: float  # added thickness of bone on each side
    lining_mm: float  # distance from bone to the first visible fluid
    white_matter: float  # 0..1: darkening of the white matter around the ventricles with age
    tissue_hu: float  # added to all tissue of the brain
    contrast: float  # of grey against white matter; 1 as in the atlas
    marrow_hu: float  # of the diploe

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Head":
        """Draw a random adult."""
        age = rng.beta(1.6, 1.3)  # 0 at age 20, 1 at age 90; most patients who bleed are old
        size = rng.normal(1.0, 0.028)
        return cls(
            mirrored=bool(rng.integers(2)),
            scale=tuple(float(size * mean * rng.normal(1.0, 0.028)) for mean in MEAN_SIZE),  # type: ignore[arg-type]
            shear=float(rng.normal(0.0, 0.02)),
            skull_bend_mm=float(rng.uniform(1.5, 3.0)),
            brain_bend_mm=float(rng.uniform(1.2, 2.4)),
            seed=int(rng.integers(2**32)),
            atrophy=float(np.clip(rng.normal(0.85 * age - 0.1, 0.15), -0.15, 1.0)),
            ventricle_mm=float(np.clip(rng.normal(2.4 * age - 0.3, 0.7), -0.5, 4.5)),
            skull_mm=float(np.clip(rng.normal(-0.4, 0.4), -0.8, 0.9)),
            lining_mm=float(np.clip(rng.normal(3.4 - 1.2 * age, 0.4), 1.8, 3.8)),
            white_matter=float(np.clip(rng.normal(1.1 * age - 0.45, 0.2), 0.0, 1.0)),
            tissue_hu=float(rng.normal(0.0, 1.2)),
            contrast=float(rng.uniform(0.75, 1.05)),
            marrow_hu=float(rng.normal(SPONGY_BONE_HU, 120)),
        )

    def to_atlas(self, points: Nodes) -> Nodes:
        """Map points of this head to the atlas. points: (3, z, y, x) mm relative to the anterior commissure."""
        x, y, z = points
        side = -1.0 if self.mirrored else 1.0
        straight = np.stack([side * x + self.shear * y, y, z]) / np.reshape(self.scale, (3, 1, 1, 1))
        bend = _random_field(self.seed, SKULL_NODES_MM, points)
        return (straight + self.skull_bend_mm * bend).astype(np.float32)

    def brain_bend(self, points: Nodes, depth: Image) -> Nodes:
        """Return the shift in mm to add to `to_atlas` within the brain. depth: mm below the inner table."""
        inside = np.clip(depth / 10.0, 0.0, 1.0)  # at the skull, the brain follows the skull
        return (self.brain_bend_mm * inside * _random_field(self.seed + 1, BRAIN_NODES_MM, points)).astype(np.float32)

    @cached_property
    def _tissue_table(self) -> Image:
        """HU by tissue coordinate, in `_STEPS` steps."""
        levels, hu = np.array(TISSUE_HU).T
        hu = np.where(levels > 0.3, 33.0 + self.contrast * (hu - 33.0) + self.tissue_hu, hu)
        return np.interp(np.linspace(0, 1, _STEPS), levels, hu).astype(np.float32)

    def brain_hu(self, brain: Brain, skull: Skull, fluid: Image, ventricle: Image) -> Image:
        """Return HU within the skull. fluid: decrease of the tissue coordinate; ventricle: fraction of ventricle."""
        tissue = brain.tissue - fluid * np.clip(1.6 - 1.6 * brain.tissue, 0.0, 1.0)
        hu = self._tissue_table[np.clip(tissue * (_STEPS - 1), 0, _STEPS - 1).astype(np.int32)]
        wall = brain.ventricle + np.float32(self.ventricle_mm)
        if self.white_matter:
            halo = np.clip((wall + 8.0) * 0.11 + 0.2 * brain.patch, 0.0, 1.0) * np.clip(3 * tissue - 1.6, 0.0, 1.0)
            hu = hu - (11.0 * self.white_matter) * halo
        hu = hu + skull.dura * (VENOUS_HU - hu) + 0.6 * brain.patch
        # dura, and small vessels on the surface of the brain
        lining = np.clip(np.float32(self.lining_mm + 0.5) - skull.depth, 0.0, 1.0)
        hu = hu + lining * (LINING_HU - hu)
        return hu + ventricle * (6.0 - hu)

    def ventricle_fraction(self, brain: Brain, where: Nodes) -> Image:
        """Return the fraction of ventricle in [0, 1]. where: positions in the atlas, (3, rows, columns) mm."""
        fraction = np.clip(brain.ventricle + np.float32(self.ventricle_mm + 0.5), 0.0, 1.0)
        septum = np.clip(1.2 - np.abs(where[0]), 0.0, 1.0) * (where[2] > SEPTUM_FROM_MM)
        return fraction * (1.0 - septum)  # the septum remains, however wide the lateral ventricles are

    def bone_fraction(self, skull: Skull) -> Image:
        """Return the fraction of bone in [0, 1]."""
        return np.clip(skull.bone + np.float32(self.skull_mm + 0.5), 0.0, 1.0)

    def bone_hu(self, skull: Skull, brain: Brain) -> Image:
        """Return HU of bone: compact at the surface, spongy inside."""
        start, end = MARROW_MM
        spongy = np.clip((skull.bone + np.float32(self.skull_mm) - start) * (1 / (end - start)), 0.0, 1.0)
        marrow = self.marrow_hu + 90.0 * brain.grain + 90.0 * brain.patch
        return COMPACT_BONE_HU + spongy * (marrow - COMPACT_BONE_HU)

    def with_cells(self, hu: Image, where: Nodes, brain: Brain, skull: Skull) -> Image:
        """Add mastoid air cells and the bony walls of the ethmoid cells, which the atlas does not contain."""
        x, y, z = where
        mastoid = 1.0 - np.abs(np.abs(x) - 51.0) * 0.06 - np.abs(y - 38.0) * 0.035 - np.abs(z + 38.0) * 0.035
        cells = np.clip(
            np.minimum(np.minimum(4.0 * mastoid, skull.bone - 0.7), 3.0 * np.abs(brain.grain) - 0.6), 0.0, 1.0
        )
        hu = hu + cells * (-850.0 - hu)
        ethmoid = 1.0 - np.abs(x) * 0.055 - np.abs(y + 38.0) * 0.035 - np.abs(z + 30.0) * 0.05
        walls = (
            np.clip(4.0 * ethmoid, 0.0, 1.0) * np.clip(1.0 - 2.6 * np.abs(brain.grain), 0.0, 1.0) * (skull.depth < -1.0)
        )
        return hu + walls * np.maximum(350.0 - hu, 0.0)


def _random_field(seed: int, node_mm: float, points: Nodes) -> Nodes:
    """Return a smooth random vector field of unit variance at points (3, ...) mm."""
    count = int(FIELD_MM / node_mm) + 2
    field = np.random.default_rng(seed).standard_normal((3, count, count, count))
    field = ndimage.gaussian_filter(field, (0, 0.6, 0.6, 0.6))
    nodes = points / node_mm + (count - 1) / 2
    return np.stack([ndimage.map_coordinates(each, nodes, order=3, mode="nearest") for each in field / field.std()])
