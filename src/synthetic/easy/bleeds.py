"""The five bleeds, each with the location and shape that define it on CT.

A bleed has coordinates of the head (mm) and spans several sections. Fresh blood has 50..80 HU.
The shapes are those found in any neuroradiology primer. Sutures limit the epidural lens, but not the subdural crescent;
subarachnoid blood takes the form of sulci and cisterns; in the ventricles blood settles at the back, because patients
lie on their back; in the parenchyma it is a lump with a rim of oedema.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np

from src.labels import SUBTYPES
from src.synthetic.easy.anatomy import Image, Section, blend, coverage, ellipsoid

OEDEMA = 17.0  # HU
_EASY_HU = (66.0, 79.0)  # the bright end of fresh blood


@dataclass(frozen=True)
class Bleed(ABC):
    """The properties of every bleed: its density and location."""

    hu: float
    side: int  # 1: the patient's left, -1: the right
    z: float  # mm, of its middle
    half_height: float  # mm

    @classmethod
    @abstractmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw one that is easy to see: large, and bright even for fresh blood."""

    @abstractmethod
    def inside(self, section: Section) -> Image:
        """Return the signed distance (mm, positive inside) to its border."""

    def cover(self, section: Section) -> Image:
        """Return the fraction of each pixel that is blood, (rows, columns) in [0, 1]."""
        return coverage(np.minimum(self.inside(section), section.cavity), section.plane.edge_mm)

    def paint(self, hu: Image, section: Section) -> Image:
        """Draw the blood into a section in HU."""
        return blend(hu, self.hu + 2.0 * section.texture, self.cover(section))

    def _taper(self, section: Section) -> float:
        """Return a parabola in z: 1 in the middle of the bleed, 0 at its upper and lower ends, negative beyond them."""
        return 1.0 - ((section.plane.z - self.z) / self.half_height) ** 2


@dataclass(frozen=True)
class Epidural(Bleed):
    """A lens between skull and dura: its outer face is the skull's, its inner face bulges into the brain."""

    azimuth: float  # radians, of its middle
    half_length: float  # mm along the skull
    thickness: float  # mm

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw a large one, temporal to parietal."""
        return cls(
            hu=rng.uniform(*_EASY_HU),
            side=_side(rng),
            z=rng.uniform(4, 20),
            half_height=rng.uniform(30, 38),
            azimuth=np.deg2rad(rng.uniform(55, 120)),
            half_length=rng.uniform(34, 44),
            thickness=rng.uniform(20, 28),
        )

    def inside(self, section: Section) -> Image:  # noqa: D102
        along = _angle(section.azimuth - self.side * self.azimuth) * (section.radius + section.depth)
        thickness = self.thickness * (self._taper(section) - (along / self.half_length) ** 2)
        return (thickness - np.abs(section.depth)).astype(np.float32)


@dataclass(frozen=True)
class Subdural(Bleed):
    """A crescent along the convexity of one hemisphere, which crosses sutures but never the midline."""

    azimuth: float
    half_angle: float  # radians
    thickness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw a large one, over most of a hemisphere."""
        return cls(
            hu=rng.uniform(*_EASY_HU),
            side=_side(rng),
            z=rng.uniform(14, 24),
            half_height=rng.uniform(38, 46),
            azimuth=np.deg2rad(rng.uniform(80, 100)),
            half_angle=np.deg2rad(rng.uniform(62, 76)),
            thickness=rng.uniform(8, 12),
        )

    def inside(self, section: Section) -> Image:  # noqa: D102
        along = _angle(section.azimuth - self.side * self.azimuth) / self.half_angle
        profile = np.sqrt(np.clip(1.0 - along**2, 0.0, None)) * np.sqrt(max(self._taper(section), 0.0))
        crescent = self.thickness * profile - np.abs(section.depth) + 0.5 * section.texture
        return np.minimum(crescent, self.side * section.plane.x - 2.0)


@dataclass(frozen=True)
class Subarachnoid(Bleed):
    """Blood in place of the fluid of sulci, fissures and cisterns: thin bright branching curves."""

    past_midline: float  # mm by which it extends into the other hemisphere
    swelling: float  # mm by which blood widens the space

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw a diffuse one, over one or both hemispheres."""
        return cls(
            hu=rng.uniform(*_EASY_HU),
            side=_side(rng),
            z=rng.uniform(0, 16),
            half_height=rng.uniform(34, 42),
            past_midline=float(rng.choice([8.0, 100.0])),
            swelling=rng.uniform(0.9, 1.3),
        )

    def inside(self, section: Section) -> Image:  # noqa: D102
        space = section.subarachnoid + self.swelling
        space = np.minimum(space, self.side * section.plane.x + self.past_midline)
        return space if self._taper(section) > 0 else np.full_like(space, -50.0)


@dataclass(frozen=True)
class Intraventricular(Bleed):
    """Blood that has settled in the ventricles: it fills them behind a level."""

    level: float  # y of the surface of the blood, mm

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw one that fills most of the ventricles."""
        return cls(
            hu=rng.uniform(*_EASY_HU),
            side=_side(rng),
            z=rng.uniform(2, 8),
            half_height=rng.uniform(38, 46),
            level=rng.uniform(-28, 4),
        )

    def inside(self, section: Section) -> Image:  # noqa: D102
        blood = np.minimum(section.ventricles, section.plane.y - self.level)
        return blood if self._taper(section) > 0 else np.full_like(blood, -50.0)


@dataclass(frozen=True)
class Intraparenchymal(Bleed):
    """A lump in the brain, with a rim of oedema."""

    centre: tuple[float, float]  # |x| and y, mm
    half_axes: tuple[float, float]  # mm, along x and y
    rim: float  # width of the oedema, mm

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Draw a large one, in the basal ganglia or in a lobe."""
        place = ((33.0, -4.0), (31.0, -38.0), (41.0, 30.0))[rng.integers(3)]
        return cls(
            hu=rng.uniform(*_EASY_HU),
            side=_side(rng),
            z=rng.uniform(8, 22),
            half_height=rng.uniform(32, 38),
            centre=(place[0] + rng.uniform(-2, 3), place[1] + rng.uniform(-4, 4)),
            half_axes=(rng.uniform(15, 19), rng.uniform(18, 23)),
            rim=rng.uniform(4, 7),
        )

    def inside(self, section: Section) -> Image:  # noqa: D102
        centre = (self.side * self.centre[0], self.centre[1], self.z)
        half_axes = (*self.half_axes, self.half_height)
        lump = ellipsoid(section.plane.x, section.plane.y, section.plane.z, centre, half_axes) + 1.2 * section.texture
        return np.minimum(np.minimum(lump, section.depth - 4.0), -section.ventricles - 2.0)

    def paint(self, hu: Image, section: Section) -> Image:
        """Draw oedema around the lump, then the blood."""
        rim = np.minimum(self.inside(section) + self.rim, section.depth - 3.0)
        rim = np.minimum(np.minimum(rim, -section.ventricles), section.cavity)
        return super().paint(blend(hu, OEDEMA, coverage(rim, 2.0)), section)


BLEEDS: dict[str, type[Bleed]] = {
    "epidural": Epidural,
    "intraparenchymal": Intraparenchymal,
    "intraventricular": Intraventricular,
    "subarachnoid": Subarachnoid,
    "subdural": Subdural,
}
if set(BLEEDS) != set(SUBTYPES):
    raise AssertionError("expected one bleed for each subtype")


def _side(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _angle(difference: Image) -> Image:
    """Wrap a difference of two azimuths to [-pi, pi)."""
    return (difference + np.pi) % (2 * np.pi) - np.pi
