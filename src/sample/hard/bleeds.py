"""The five bleeds, each with the place, the shape and the densities that define it on CT.

docs/hard.md says which densities have a source; sizes are chosen within what textbooks show. Many are small: what a
reader could see is decided slice by slice, by the share of its pixels that bleed (`scan.VISIBLE_SHARE`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from src.sample.hard.atlas import Image, atlas
from src.sample.hard.head import Nodes
from src.sample.hard.shapes import (
    CALLOSUM_MM,
    CENTRE,
    Fields,
    Point,
    distance,
    on_inner_table,
    plate_mm,
    soft,
    tentorium_mm,
)

OEDEMA_HU = 19.0
TRIES = 50  # to place a clot in the brain
YIELD_MM = 45.0  # by which depth the push of a clot on the brain's surface has fallen to 1/e


@dataclass(frozen=True)
class Blood:
    """How blood looks: fresh it is bright, after a week or two as bright as the brain, then darker."""

    hu: float
    below_hu: float  # behind a level, where cells have settled; the same as `hu` where there is none
    level_mm: float  # y of that level in the atlas
    mottled: float  # HU of its unevenness

    def at(self, fields: Fields) -> Image:
        """HU of pure blood at each pixel."""
        settled = soft(fields.where[1] - np.float32(self.level_mm) + 2 * fields.brain.patch, 4.0)
        uneven = self.mottled * (0.7 * fields.brain.patch + 0.5 * fields.brain.grain)
        return self.hu + settled * (self.below_hu - self.hu) + uneven


def fresh(rng: np.random.Generator) -> Blood:
    """Hours to three days old: 55..80 HU by how much water the clot has given off."""
    hu = float(rng.uniform(55, 78))
    return Blood(hu, hu, 0.0, float(rng.uniform(1, 5)))


def of_any_age(rng: np.random.Generator) -> Blood:
    """As in subdural bleeds: somewhat over half fresh, else old, or fresh blood under old."""
    kind = rng.choice(4, p=(0.55, 0.17, 0.13, 0.15))
    if kind == 0:
        return fresh(rng)
    hu = float(rng.uniform(36, 46) if kind == 1 else rng.uniform(16, 28))
    below = float(rng.uniform(48, 70)) if kind == 3 else hu  # fresh blood under old
    return Blood(hu, below, float(rng.uniform(0, 45)), float(rng.uniform(1, 4)))


@dataclass(frozen=True)
class Bleed(ABC):
    """What every bleed has. But for its soft border it is nowhere farther from `centre` than `reach_mm`."""

    blood: Blood
    centre: Point
    reach_mm: float

    @abstractmethod
    def share(self, fields: Fields) -> Image:
        """Share of each pixel that is blood."""

    def around(self, hu: Image, fields: Fields) -> Image:
        """Change the brain around it, before blood is laid over."""
        return hu

    def push(self, points: Nodes, depth: Image) -> Nodes | None:
        """From where the brain at these points has been pushed there: mm to add, as `points`; None where it has not."""
        return None


@dataclass(frozen=True)
class Epidural(Bleed):
    """A lens between skull and dura, which sutures hold."""

    plate: str
    thickness_mm: float
    half_length_mm: float

    def share(self, fields: Fields) -> Image:  # noqa: D102
        along = distance(fields.where, self.centre) / self.half_length_mm
        thickness = self.thickness_mm * (1.0 - along**2)
        edge = plate_mm(fields.where, self.plate)  # there it ends bluntly, where dura is fast to bone
        thickness = np.minimum(thickness, 0.9 * edge)
        return soft(np.minimum(thickness - fields.skull.depth, fields.skull.depth + 0.7))

    def push(self, points: Nodes, depth: Image) -> Nodes:  # noqa: D102
        profile = np.clip(1.0 - (distance(points, self.centre) / (1.5 * self.half_length_mm)) ** 2, 0.0, None)
        return _inwards(self.centre, 0.9 * self.thickness_mm * profile * np.exp(-np.maximum(depth, 0) / YIELD_MM))


@dataclass(frozen=True)
class Subdural(Bleed):
    """A crescent along the convexity, which sutures do not hold, but falx and tentorium do."""

    thickness_mm: float
    half_length_mm: float

    def share(self, fields: Fields) -> Image:  # noqa: D102
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

    def share(self, fields: Fields) -> Image:  # noqa: D102
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

    amount: float  # of the fluid that is replaced, at most
    deepest_mm: float  # below the skull: sulci only, or cisterns too

    def share(self, fields: Fields) -> Image:  # noqa: D102
        inside = self.reach_mm - distance(fields.where, self.centre)
        spread = np.clip(np.minimum(0.1 * inside + 0.35 * fields.brain.patch, inside), 0.0, 1.0)
        # it stretches the spaces that it fills
        space = np.clip((0.52 - fields.brain.tissue) * 4.0, 0.0, 1.0) * (1.0 - fields.ventricle)
        within = soft(np.minimum(fields.skull.depth - 0.8, self.deepest_mm - fields.skull.depth), 2.0)
        return self.amount * spread * np.maximum(space, fields.fluid) * within


@dataclass(frozen=True)
class Intraventricular(Bleed):
    """Blood in the ventricles: it settles behind, because patients lie on their back, or it fills them."""

    level_mm: float  # y of its surface

    def share(self, fields: Fields) -> Image:  # noqa: D102
        near = soft(np.float32(self.reach_mm) - distance(fields.where, self.centre), 4.0)
        level = soft(fields.where[1] - np.float32(self.level_mm) + 0.6 * fields.brain.patch, 1.5)
        return fields.ventricle * level * near


@dataclass(frozen=True)
class Intraparenchymal(Bleed):
    """A clot in the brain with oedema around it; it pushes the brain aside."""

    radius_mm: float
    stretch: Point
    ragged: float  # share of the radius by which its border is uneven
    oedema_mm: float
    ruptured: bool  # into a ventricle

    def _inside(self, fields: Fields) -> Image:
        uneven = 1.0 + self.ragged * (0.7 * fields.brain.patch + 0.25 * fields.brain.grain)
        return self.radius_mm * uneven - distance(fields.where, self.centre, self.stretch)

    def share(self, fields: Fields) -> Image:  # noqa: D102
        share = soft(np.minimum(self._inside(fields), fields.skull.depth - 1.5))
        return share if self.ruptured else share * (1.0 - fields.ventricle)

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
        # what was at r0 is now at r: r^3 = r0^3 + 0.7 R^3, the rest of the clot's volume is brain that it destroyed
        rest = np.cbrt(np.maximum(radius**3 - 0.7 * self.radius_mm**3, (0.45 * radius) ** 3))
        move = (rest / radius - 1.0) * np.clip(depth / 15.0, 0.0, 1.0)  # the skull does not give way
        return np.stack([(each - c) * move for each, c in zip(points, self.centre, strict=True)])


def _inwards(centre: Point, mm: Image) -> Nodes:
    """The way back of what was pushed from a place on the skull towards the middle by `mm`."""
    outwards = np.subtract(centre, CENTRE)
    outwards /= np.linalg.norm(outwards)
    return np.stack([np.float32(component) * mm for component in outwards])


# --- how they are drawn --------------------------------------------------------------------------------------------

DEEP = ((27, 1, 3), (27, -4, 6), (13, 18, 8), (14, -8, 12))  # putamen, capsule, thalamus, caudate: |x|, y, z
LOBAR = ((34, -38, 26), (36, 46, 36), (48, 22, -10), (26, 74, 8), (38, 4, 42))
HINDBRAIN = ((22, 60, -36), (0, 26, -32), (12, 62, -30))
CONTUSED = ((24, -52, -12), (36, -42, -8), (46, -8, -26), (50, 14, -20), (14, -58, 4), (50, 40, -6))
CISTERNS = ((0, -5, -15), (0, 22, -14), (34, -8, -10), (0, -45, -4))


def draw_bleeds(subtypes: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, Bleed]]:
    """Draw the bleeds of one patient: for each subtype one or several, together as accident or illness makes them.

    Returns pairs of subtype and bleed; those that lie deeper come first.
    """
    side = _side(rng)
    traumatic = bool({"epidural", "subdural"} & set(subtypes))
    bleeds: list[tuple[str, Bleed]] = []
    for subtype in ("intraparenchymal", "intraventricular", "subarachnoid", "subdural", "epidural"):
        if subtype in subtypes:
            made = _DRAW[subtype](rng, side, traumatic, subtypes)
            bleeds += [(subtype, bleed) for bleed in made]
    return bleeds


def _draw_epidural(rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]) -> list[Bleed]:
    plate = str(rng.choice(["temporoparietal", "frontal", "occipital"], p=[0.7, 0.18, 0.12]))
    direction = {
        "temporoparietal": (side * rng.uniform(0.8, 1.0), rng.uniform(-0.1, 0.55), rng.uniform(-0.1, 0.6)),
        "frontal": (side * rng.uniform(0.3, 0.8), -1.0, rng.uniform(0.1, 0.7)),
        "occipital": (side * rng.uniform(0.25, 0.6), 1.0, rng.uniform(-0.45, 0.0)),
    }[plate]
    centre, half_length = on_inner_table(direction), float(rng.uniform(17, 42))
    thickness = float(half_length * rng.uniform(0.28, 0.6))
    return [Epidural(fresh(rng), centre, half_length + 2, plate, min(thickness, 24.0), half_length)]


def _draw_subdural(rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]) -> list[Bleed]:
    bleeds: list[Bleed] = []
    side = -side if "epidural" in subtypes else side  # the blow, and what it threw against the other side
    kind = rng.random()
    if kind < 0.8:
        sides = (side, -side) if rng.random() < 0.16 else (side,)
        for each in sides:
            blood = of_any_age(rng)
            centre = on_inner_table((each, rng.uniform(-0.45, 0.4), rng.uniform(0.1, 0.75)))
            thickness = float(np.clip(rng.lognormal(np.log(6.0), 0.5), 2.2, 20))
            if blood.hu < 50:
                thickness += 4.0  # old blood that is thin looks like an old brain's fluid
            half_length = float(rng.uniform(24, 50) + 1.2 * thickness)
            bleeds.append(Subdural(blood, centre, 1.36 * half_length, thickness, half_length))
    if kind > 0.65:
        on_tentorium = bool(rng.random() < 0.35)
        centre = (
            (side * 22.0, 62.0, -14.0)
            if on_tentorium
            else (0.0, float(rng.uniform(-50, 60)), float(rng.uniform(15, 55)))
        )
        bleeds.append(
            AlongDura(fresh(rng), centre, float(rng.uniform(32, 55)), side, float(rng.uniform(2.0, 5.5)), on_tentorium)
        )
    return bleeds


def _draw_subarachnoid(rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]) -> list[Bleed]:
    if not traumatic and rng.random() < 0.6:  # an aneurysm's
        bleeds: list[Bleed] = []
        amount = float(rng.uniform(0.6, 1.0))
        for place in (CISTERNS[0], *(CISTERNS[i] for i in rng.permutation(3)[: rng.integers(0, 4)] + 1)):
            centre = (side * float(place[0]), float(place[1]), float(place[2]))
            bleeds.append(Subarachnoid(fresh(rng), centre, float(rng.uniform(22, 40)), amount, 70.0))
            if place[0] and rng.random() < 0.5:
                bleeds.append(
                    Subarachnoid(fresh(rng), (-centre[0], *centre[1:]), float(rng.uniform(18, 35)), amount * 0.8, 70.0)
                )
        return bleeds
    bleeds = []
    for _ in range(rng.integers(1, 4)):
        each = side if rng.random() < 0.6 else -side
        centre = on_inner_table((each, rng.uniform(-1.0, 0.8), rng.uniform(-0.1, 1.2)))
        bleeds.append(
            Subarachnoid(
                fresh(rng),
                centre,
                float(rng.uniform(16, 38)),
                float(rng.uniform(0.55, 1.0)),
                float(rng.uniform(18, 30)),
            )
        )
    return bleeds


def _draw_intraventricular(
    rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]
) -> list[Bleed]:
    kind, blood = rng.random(), fresh(rng)
    if kind < 0.45:  # a little, settled in both occipital horns
        return [Intraventricular(blood, (0.0, 45.0, 8.0), 60.0, float(rng.uniform(32, 52)))]
    if kind < 0.8:  # most of one lateral ventricle, and what has run over
        one = Intraventricular(
            blood, (side * 22.0, 15.0, 10.0), float(rng.uniform(26, 48)), float(rng.uniform(-38, 30))
        )
        other = Intraventricular(blood, (-side * 22.0, 40.0, 6.0), 40.0, float(rng.uniform(32, 50)))
        return [one, other]
    # a cast: third and fourth too
    return [Intraventricular(blood, (0.0, 20.0, -4.0), float(rng.uniform(45, 80)), float(rng.uniform(-45, 10)))]


def _draw_intraparenchymal(
    rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]
) -> list[Bleed]:
    if traumatic or ("subarachnoid" in subtypes and rng.random() < 0.5):
        bleeds: list[Bleed] = []
        for _ in range(rng.integers(1, 5)):
            place = CONTUSED[rng.integers(len(CONTUSED))]
            radius = float(np.clip(rng.lognormal(np.log(6.5), 0.45), 2.2, 15))
            bleeds.append(
                _clot(rng, side if rng.random() < 0.5 else -side, place, radius, 6.0, ragged=0.5, ruptured=False)
            )
        return bleeds
    with_ventricle = "intraventricular" in subtypes
    kind = rng.choice(3, p=(0.75, 0.15, 0.1) if with_ventricle else (0.45, 0.42, 0.13))
    places = (DEEP, LOBAR, HINDBRAIN)[kind]
    radius = float(np.clip(rng.lognormal(np.log(12.5), 0.5), 2.5, 28))
    radius = max(radius, 12.0) if with_ventricle else radius
    radius = min(radius, 13.0) if kind == 2 else radius
    bleeds = [_clot(rng, side, places[rng.integers(len(places))], radius, 4.0, ragged=0.22, ruptured=with_ventricle)]
    if rng.random() < 0.15:  # amyloid, metastases, septic emboli: more than one
        for _ in range(rng.integers(1, 3)):
            bleeds.append(_clot(rng, _side(rng), LOBAR[rng.integers(len(LOBAR))], float(rng.uniform(2.5, 8)), 8.0))
    return bleeds


def _clot(
    rng: np.random.Generator,
    side: int,
    place: tuple[int, int, int],
    radius: float,
    scatter_mm: float,
    *,
    ragged: float = 0.25,
    ruptured: bool = False,
) -> Intraparenchymal:
    for _ in range(TRIES):
        x, y, z = np.array(place) + rng.normal(0, scatter_mm, 3) * (0.3 if place[0] == 0 else 1.0, 1.0, 1.0)
        at = np.array([side * x, y, z], dtype=np.float32)[:, None, None]
        if atlas().skull(at).depth[0, 0] > 2 and atlas().brain(at).tissue[0, 0] > 0.4:
            break  # in the brain
    stretch = tuple(np.exp(rng.normal(0, 0.18, 3)) * (0.85, 1.2, 1.0)) if radius > 4 else (1.0, 1.0, 1.0)
    return Intraparenchymal(
        blood=fresh(rng),
        centre=(float(side * x), float(y), float(z)),
        reach_mm=2.2 * radius + 14.0,
        radius_mm=radius,
        stretch=tuple(map(float, stretch)),  # type: ignore[arg-type]
        ragged=ragged,
        oedema_mm=float(np.clip(rng.normal(0.3 * radius, 2.0), 0.0, 9.0)),
        ruptured=ruptured,
    )


def _side(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


_DRAW = {
    "epidural": _draw_epidural,
    "intraparenchymal": _draw_intraparenchymal,
    "intraventricular": _draw_intraventricular,
    "subarachnoid": _draw_subarachnoid,
    "subdural": _draw_subdural,
}
