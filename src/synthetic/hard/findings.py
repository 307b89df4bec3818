"""Findings on head CT other than blood. Some look like blood, but none is labelled."""

from abc import ABC
from dataclasses import dataclass

import numpy as np

from src.synthetic.hard.atlas import Image
from src.synthetic.hard.bleeds import OEDEMA_HU
from src.synthetic.hard.physics import METAL_HU
from src.synthetic.hard.shapes import Fields, Point, along, distance, on_inner_table, soft, tube


@dataclass(frozen=True)
class Finding(ABC):
    """The base of all findings. Apart from its soft border, a finding lies within `reach_mm` of `centre`."""

    centre: Point
    reach_mm: float

    def in_brain(self, hu: Image, fields: Fields) -> Image:
        """Change the HU within the skull, before bleeds are drawn."""
        return hu

    def in_bone(self, fraction: Image, fields: Fields) -> Image:
        """Change the fraction of bone."""
        return fraction

    def over_all(self, hu: Image, fields: Fields) -> Image:
        """Change the HU of the finished section."""
        return hu


@dataclass(frozen=True)
class Calcification(Finding):
    """Calcium in the pineal gland, choroid plexus, falx, basal ganglia or the wall of an artery."""

    hu: float
    radius_mm: float
    stretch: Point
    sparse: float  # 0 solid .. 1 scattered grains

    def in_brain(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        inside = self.radius_mm - distance(fields.where, self.centre, self.stretch) + 0.3 * fields.brain.patch
        fraction = soft(inside, 1.2)
        fraction = fraction * np.clip(1.0 - self.sparse * (0.9 - 0.8 * fields.brain.grain), 0.0, 1.0)
        return hu + fraction * (self.hu - hu)


@dataclass(frozen=True)
class Vessel(Finding):
    """A dense artery, because of a thrombus, a high haematocrit or being seen end-on."""

    end: Point
    radius_mm: float
    hu: float

    def in_brain(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        fraction = soft(self.radius_mm - tube(fields.where, self.centre, self.end) + 0.2 * fields.brain.patch)
        return hu + fraction * np.maximum(self.hu - hu, 0.0)


@dataclass(frozen=True)
class Infarct(Finding):
    """An old stroke, where fluid or scar has replaced brain, or a fresh one, which is only slightly dark."""

    radius_mm: float
    stretch: Point
    hu: float

    def in_brain(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        uneven = self.radius_mm * (1.0 + 0.3 * fields.brain.patch)
        fraction = soft(uneven - distance(fields.where, self.centre, self.stretch), 3.0)
        return hu + fraction * np.minimum(self.hu + 3.0 * fields.brain.patch - hu, 0.0)


@dataclass(frozen=True)
class Tumour(Finding):
    """A dense, uniform meningioma on the dura, or a tumour in the brain with a dark centre and oedema."""

    radius_mm: float
    hu: float
    middle_hu: float
    oedema_mm: float

    def in_brain(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        inside = self.radius_mm * (1.0 + 0.12 * fields.brain.patch) - distance(fields.where, self.centre)
        if self.oedema_mm:
            uneven = self.oedema_mm * (1.0 + 0.3 * fields.brain.patch)
            rim = soft(inside + uneven, 4.0) * np.clip(2.2 * fields.brain.tissue - 0.75, 0.1, 1.0)
            hu = hu + 0.85 * rim * (1.0 - fields.ventricle) * np.minimum(OEDEMA_HU - hu, 0.0)
        core = self.hu + soft(inside - 0.5 * self.radius_mm, 3.0) * (self.middle_hu - self.hu)
        return hu + soft(np.minimum(inside, fields.skull.depth)) * (core + 1.5 * fields.brain.patch - hu)


@dataclass(frozen=True)
class Craniotomy(Finding):
    """A bone flap that was sawn out and put back, with a burr hole; `centre` is on the inner table."""

    radius_mm: float
    hole: Point

    def in_bone(self, fraction: Image, fields: Fields) -> Image:  # noqa: D102
        vault = soft(12.0 - np.abs(fields.skull.depth + 3.0), 2.0)
        cut = soft(0.9 - np.abs(distance(fields.where, self.centre) - self.radius_mm + 1.5 * fields.brain.patch))
        hole = soft(6.0 - distance(fields.where, self.hole))
        return fraction * (1.0 - vault * np.maximum(cut, hole))


@dataclass(frozen=True)
class Swelling(Finding):
    """Blood and fluid in the fat of the scalp at the site of an impact; `centre` is on the inner table."""

    def over_all(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        near = np.clip(1.6 - 1.6 * distance(fields.where, self.centre) / self.reach_mm, 0.0, 1.0)
        scalp = soft(-fields.skull.bone - 0.5) * (fields.skull.depth < -1.0) * (hu > -300.0)
        return hu + 0.85 * near * scalp * np.maximum(44.0 + 6.0 * fields.brain.patch - hu, 0.0)


@dataclass(frozen=True)
class Catheter(Finding):
    """A drain through the vault into a lateral ventricle."""

    end: Point

    def over_all(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        off = tube(fields.where, self.centre, self.end)
        hu = hu + soft(1.3 - off) * (240.0 - hu)
        return hu + soft(0.55 - off) * (10.0 - hu)


@dataclass(frozen=True)
class Metal(Finding):
    """A clip, coil, plate or dental filling; `physics` adds the streaks."""

    radius_mm: float

    def over_all(self, hu: Image, fields: Fields) -> Image:  # noqa: D102
        return hu + soft(self.radius_mm - distance(fields.where, self.centre)) * (METAL_HU - hu)


def draw_findings(age: float, subtypes: tuple[str, ...], rng: np.random.Generator) -> list[Finding]:
    """Draw a patient's other findings. age: from 0 at age 20 to 1 at age 90."""
    found: list[Finding] = []

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    def calcify(place: Point, hu: tuple[float, float], mm: tuple[float, float], stretch: Point, sparse: float) -> None:
        centre = tuple(float(each + rng.normal(0, 0.8)) for each in place)
        size = float(rng.uniform(*mm))
        reach = size * max(stretch) + 4
        found.append(Calcification(centre, reach, float(rng.uniform(*hu)), size, stretch, sparse))  # type: ignore[arg-type]

    if happens(0.5 + 0.4 * age):
        calcify((0, 29, 2), (120, 420), (1.4, 3.2), (1.0, 1.2, 0.9), 0.3)  # pineal
    for side in (-1.0, 1.0):
        if happens(0.25 + 0.4 * age):  # choroid plexus
            calcify((side * 24.0, 41, 10), (110, 450), (1.6, 3.6), (0.9, 1.4, 1.1), float(rng.uniform(0.2, 0.8)))
        if happens(0.02 * age):  # basal ganglia
            calcify((side * 20.0, 1, 0), (55, 130), (2.5, 4.5), (0.7, 1.5, 1.0), 0.8)
        if happens(0.4 * age):  # carotid siphon
            calcify((side * 13.0, 2, -26), (200, 600), (1.2, 2.2), (0.8, 2.0, 0.8), 0.4)
    for _ in range(rng.poisson(0.3 * age)):
        calcify((0, rng.uniform(-55, 40), rng.uniform(42, 62)), (150, 500), (2.0, 4.5), (0.4, 1.6, 1.3), 0.2)  # falx
    if happens(0.15):
        side = float(rng.choice([-1, 1]))
        found.append(
            Vessel(
                (side * 7, -4, -15), 26, (side * 27, -6, -13), float(rng.uniform(1.1, 1.9)), float(rng.uniform(50, 66))
            )
        )
    if happens(0.3):
        found.append(Vessel((0, 13, -38), 26, (0, 11, -17), float(rng.uniform(1.4, 2.2)), float(rng.uniform(44, 62))))
    for _ in range(rng.poisson(0.5 * age)):
        found.append(_draw_infarct(rng))
    if happens(0.05):
        found.append(_draw_tumour(rng))
    if happens(0.06):
        found += _draw_operation(rng)
    if ({"epidural", "subdural"} & set(subtypes) and happens(0.5)) or happens(0.06):
        centre = on_inner_table((rng.choice([-1, 1]), rng.uniform(-0.9, 0.9), rng.uniform(0.0, 0.9)))
        found.append(Swelling(centre, float(rng.uniform(26, 44))))
    if happens(0.05):
        found.append(
            Metal((float(rng.uniform(-30, 30)), float(rng.uniform(-60, -35)), -70.0), 12, float(rng.uniform(2, 5)))
        )
    return found


def _draw_infarct(rng: np.random.Generator) -> Infarct:
    side = float(rng.choice([-1, 1]))
    if rng.random() < 0.5:  # a lacune
        centre = (side * float(rng.uniform(12, 30)), float(rng.uniform(-12, 22)), float(rng.uniform(0, 24)))
        return Infarct(centre, 16, float(rng.uniform(2, 4.5)), (1.0, 1.3, 1.0), float(rng.uniform(8, 18)))
    x, y, z = ((48, 18, 18), (46, -8, 16), (24, 76, 4), (20, 62, -36), (30, -50, 20))[rng.integers(5)]
    radius = float(rng.uniform(10, 24))
    hu = float(rng.choice([rng.uniform(6, 16), rng.uniform(22, 27)]))
    return Infarct((side * x, float(y), float(z)), 2.4 * radius, radius, (0.8, 1.2, 1.1), hu)


def _draw_tumour(rng: np.random.Generator) -> Tumour:
    side, radius = float(rng.choice([-1, 1])), float(rng.uniform(7, 19))
    if rng.random() < 0.5:
        centre = along(on_inner_table((side, rng.uniform(-1, 0.8), rng.uniform(-0.1, 1.0))), -0.5 * radius)
        hu = float(rng.uniform(44, 58))
        return Tumour(centre, radius + 6, radius, hu, hu, 0.0)
    centre = (side * float(rng.uniform(18, 40)), float(rng.uniform(-45, 60)), float(rng.uniform(5, 40)))
    oedema = float(rng.uniform(5, 18))
    return Tumour(
        centre, 1.4 * radius + 2 * oedema, radius, float(rng.uniform(36, 46)), float(rng.uniform(14, 26)), oedema
    )


def _draw_operation(rng: np.random.Generator) -> list[Finding]:
    side = float(rng.choice([-1, 1]))
    direction = (side, float(rng.uniform(-0.8, 0.6)), float(rng.uniform(0.1, 0.9)))
    centre = on_inner_table(direction)
    radius = float(rng.uniform(20, 34))
    # the burr hole lies on the edge of the flap
    there = [on_inner_table((direction[0], direction[1] - step, direction[2])) for step in np.linspace(0.1, 1.5, 40)]
    hole = min(there, key=lambda point: abs(float(np.linalg.norm(np.subtract(point, centre))) - radius))
    found: list[Finding] = [Craniotomy(centre, radius + 12, radius, hole)]
    if rng.random() < 0.6:
        start = on_inner_table((side * 0.35, -0.55, 0.75))
        end = (side * 9.0, -14.0, 12.0)
        found.append(Catheter(along(start, 20.0), 90, end))
    if rng.random() < 0.4:
        found.append(
            Metal(
                (side * float(rng.uniform(4, 28)), -4.0, float(rng.uniform(-16, -10))), 8, float(rng.uniform(1.5, 3.5))
            )
        )
    return found
