"""The five bleeds, each with the location, shape and densities that define it on CT.

`random_bleeds` draws them for a patient.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from src.synthetic.hard.atlas import Image
from src.synthetic.hard.head import Nodes
from src.synthetic.hard.shapes import (
    CALLOSUM_MM,
    CENTRE,
    Fields,
    Point,
    distance,
    plate_mm,
    soft,
    tentorium_mm,
)

OEDEMA_HU = 19.0
YIELD_MM = 45.0  # depth over which the displacement by a clot on the surface of the brain falls to 1/e


@dataclass(frozen=True)
class Blood:
    """The density of blood: bright when fresh, like brain after a week or two, then darker."""

    hu: float
    below_hu: float  # behind a level where cells have settled; equal to `hu` if there is no level
    level_mm: float  # y of the level in the atlas
    mottled: float  # amplitude of random variation, HU

    def at(self, fields: Fields) -> Image:
        """Return the HU of pure blood at each pixel."""
        settled = soft(fields.where[1] - np.float32(self.level_mm) + 2 * fields.brain.patch, 4.0)
        uneven = self.mottled * (0.7 * fields.brain.patch + 0.5 * fields.brain.grain)
        return self.hu + settled * (self.below_hu - self.hu) + uneven


@dataclass(frozen=True)
class Bleed(ABC):
    """The base of all bleeds. Apart from its soft border, a bleed lies within `reach_mm` of `centre`."""

    blood: Blood
    centre: Point
    reach_mm: float

    @abstractmethod
    def fraction(self, fields: Fields) -> Image:
        """Return the fraction of each pixel that is blood."""

    def around(self, hu: Image, fields: Fields) -> Image:
        """Change the surrounding brain before the blood is drawn."""
        return hu

    def push(self, points: Nodes, depth: Image) -> Nodes | None:
        """Return the shift in mm from these points back to where their brain came from; None for no displacement."""
        return None


@dataclass(frozen=True)
class Epidural(Bleed):
    """A lens between skull and dura, limited by sutures."""

    plate: str
    thickness_mm: float
    half_length_mm: float

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        along = distance(fields.where, self.centre) / self.half_length_mm
        thickness = self.thickness_mm * (1.0 - along**2)
        edge = plate_mm(fields.where, self.plate)  # it ends bluntly at sutures, where dura is attached to bone
        thickness = np.minimum(thickness, 0.9 * edge)
        return soft(np.minimum(thickness - fields.skull.depth, fields.skull.depth + 0.7))

    def push(self, points: Nodes, depth: Image) -> Nodes:  # noqa: D102
        profile = np.clip(1.0 - (distance(points, self.centre) / (1.5 * self.half_length_mm)) ** 2, 0.0, None)
        return _inwards(self.centre, 0.9 * self.thickness_mm * profile * np.exp(-np.maximum(depth, 0) / YIELD_MM))


@dataclass(frozen=True)
class Subdural(Bleed):
    """A crescent along the convexity, limited by falx and tentorium but not by sutures."""

    thickness_mm: float
    half_length_mm: float

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        along = distance(fields.where, self.centre, (1.0, 1.35, 1.0)) / self.half_length_mm
        thickness = self.thickness_mm * np.sqrt(np.clip(1.0 - along**2, 0.0, None)) + 0.4 * fields.brain.patch
        midline = math.copysign(1.0, self.centre[0]) * fields.where[0] - 1.5
        crescent = np.minimum(thickness - fields.skull.depth, fields.skull.depth + 0.2)
        return soft(np.minimum(np.minimum(crescent, midline), 4.0 * (1.0 - along)))

    def push(self, points: Nodes, depth: Image) -> Nodes:  # noqa: D102
        profile = np.clip(
            1.15 - (distance(points, self.centre, (1.0, 1.35, 1.0)) / (1.3 * self.half_length_mm)) ** 2, 0, 1
        )
        return _inwards(self.centre, 0.85 * self.thickness_mm * profile * np.exp(-np.maximum(depth, 0) / YIELD_MM))


@dataclass(frozen=True)
class AlongDura(Bleed):
    """Subdural blood along the falx or on the tentorium: a thin sheet on one side."""

    side: int
    thickness_mm: float
    on_tentorium: bool

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        x, y, z = fields.where
        if self.on_tentorium:
            above, within = tentorium_mm(fields.where), np.minimum(self.side * x - 4.0, y - 40.0)
        else:
            above, within = self.side * x - 0.4, np.maximum(np.maximum(np.abs(y), z) - CALLOSUM_MM, -4.0)
        inside = self.reach_mm - distance(fields.where, self.centre)
        fade = self.thickness_mm * np.clip(1.3 * inside / self.reach_mm, 0.0, 1.0)
        sheet = np.minimum(fade + 0.3 * fields.brain.patch - above, above + 0.5)
        return soft(np.minimum(np.minimum(sheet, within), np.minimum(fields.skull.depth, inside)))


@dataclass(frozen=True)
class Subarachnoid(Bleed):
    """Blood in place of the fluid of sulci, fissures and cisterns."""

    amount: float  # largest fraction of fluid that is replaced
    deepest_mm: float  # below the skull; small for sulci only, large for cisterns too

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        inside = self.reach_mm - distance(fields.where, self.centre)
        spread = np.clip(np.minimum(0.1 * inside + 0.35 * fields.brain.patch, inside), 0.0, 1.0)
        # blood widens the spaces that it fills
        space = np.clip((0.52 - fields.brain.tissue) * 4.0, 0.0, 1.0) * (1.0 - fields.ventricle)
        within = soft(np.minimum(fields.skull.depth - 0.8, self.deepest_mm - fields.skull.depth), 2.0)
        return self.amount * spread * np.maximum(space, fields.fluid) * within


@dataclass(frozen=True)
class Intraventricular(Bleed):
    """Blood that fills the ventricles or settles at their back, because patients lie on their back."""

    level_mm: float  # y of the surface of the blood

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        near = soft(np.float32(self.reach_mm) - distance(fields.where, self.centre), 4.0)
        level = soft(fields.where[1] - np.float32(self.level_mm) + 0.6 * fields.brain.patch, 1.5)
        return fields.ventricle * level * near


@dataclass(frozen=True)
class Intraparenchymal(Bleed):
    """A clot in the brain, surrounded by oedema, which displaces the brain."""

    radius_mm: float
    stretch: Point
    ragged: float  # unevenness of the border, as a fraction of the radius
    oedema_mm: float
    ruptured: bool  # whether it has broken into a ventricle

    def _inside(self, fields: Fields) -> Image:
        uneven = 1.0 + self.ragged * (0.7 * fields.brain.patch + 0.25 * fields.brain.grain)
        return self.radius_mm * uneven - distance(fields.where, self.centre, self.stretch)

    def fraction(self, fields: Fields) -> Image:  # noqa: D102
        fraction = soft(np.minimum(self._inside(fields), fields.skull.depth - 1.5))
        return fraction if self.ruptured else fraction * (1.0 - fields.ventricle)

    def around(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        if self.oedema_mm < 0.5:
            return hu
        rim = soft(np.minimum(self._inside(fields) + self.oedema_mm, fields.skull.depth - 2.0), 3.0)
        in_white = np.clip(2.2 * fields.brain.tissue - 0.75, 0.15, 1.0)  # water spreads along fibres
        rim = 0.85 * rim * in_white * (1.0 - fields.ventricle) * (1.0 - fields.fluid)
        return hu + rim * np.minimum(OEDEMA_HU - hu, 0.0)

    def push(self, points: Nodes, depth: Image) -> Nodes | None:  # noqa: D102
        if self.radius_mm < 5:
            return None
        radius = np.maximum(distance(points, self.centre, self.stretch), 1e-3)
        # brain moves from r0 to r with r^3 = r0^3 + 0.7 R^3; the other 0.3 of the clot's volume replace destroyed brain
        rest = np.cbrt(np.maximum(radius**3 - 0.7 * self.radius_mm**3, (0.45 * radius) ** 3))
        move = (rest / radius - 1.0) * np.clip(depth / 15.0, 0.0, 1.0)  # the skull does not move
        return np.stack([(each - c) * move for each, c in zip(points, self.centre, strict=True)])


def _inwards(centre: Point, mm: Image) -> Nodes:
    """Return the shift back, towards a point on the skull, of brain that was displaced from it by `mm`."""
    outwards = np.subtract(centre, CENTRE)
    outwards /= np.linalg.norm(outwards)
    return np.stack([np.float32(component) * mm for component in outwards])
