"""Draw the bleeds of a patient: their number, locations, sizes and ages.

docs/hard.md says which densities have a source; sizes are chosen within the range shown in textbooks. Many bleeds are
small; whether a bleed is visible is decided slice by slice, from its fraction of the pixels (`scan.VISIBLE_FRACTION`).
"""

import numpy as np

from src.synthetic.hard.atlas import atlas
from src.synthetic.hard.bleeds import (
    AlongDura,
    Bleed,
    Blood,
    Epidural,
    Intraparenchymal,
    Intraventricular,
    Subarachnoid,
    Subdural,
)
from src.synthetic.hard.shapes import on_inner_table

TRIES = 50  # attempts to place a clot in the brain
# Typical locations: |x|, y, z in mm
DEEP = ((27, 1, 3), (27, -4, 6), (13, 18, 8), (14, -8, 12))  # putamen, capsule, thalamus, caudate
LOBAR = ((34, -38, 26), (36, 46, 36), (48, 22, -10), (26, 74, 8), (38, 4, 42))
HINDBRAIN = ((22, 60, -36), (0, 26, -32), (12, 62, -30))
CONTUSED = ((24, -52, -12), (36, -42, -8), (46, -8, -26), (50, 14, -20), (14, -58, 4), (50, 40, -6))
CISTERNS = ((0, -5, -15), (0, 22, -14), (34, -8, -10), (0, -45, -4))


def _fresh_blood(rng: np.random.Generator) -> Blood:
    """Draw blood that is hours to three days old: 55..78 HU, depending on how far the clot has contracted."""
    hu = float(rng.uniform(55, 78))
    return Blood(hu, hu, 0.0, float(rng.uniform(1, 5)))


def _blood_of_any_age(rng: np.random.Generator) -> Blood:
    """Draw blood for a subdural bleed: fresh in just over half of cases, otherwise old, or fresh below old."""
    kind = rng.choice(4, p=(0.55, 0.17, 0.13, 0.15))
    if kind == 0:
        return _fresh_blood(rng)
    hu = float(rng.uniform(36, 46) if kind == 1 else rng.uniform(16, 28))
    below = float(rng.uniform(48, 70)) if kind == 3 else hu  # fresh blood below old
    return Blood(hu, below, float(rng.uniform(0, 45)), float(rng.uniform(1, 4)))


def draw_bleeds(subtypes: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, Bleed]]:
    """Draw the bleeds of one patient: one or several of each subtype, in combinations typical of injury or disease.

    Returns pairs of subtype and bleed, the deeper ones first.
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
    return [Epidural(_fresh_blood(rng), centre, half_length + 2, plate, min(thickness, 24.0), half_length)]


def _draw_subdural(rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]) -> list[Bleed]:
    bleeds: list[Bleed] = []
    side = -side if "epidural" in subtypes else side  # contrecoup: opposite the epidural, which lies at the impact
    kind = rng.random()
    if kind < 0.8:
        sides = (side, -side) if rng.random() < 0.16 else (side,)
        for each in sides:
            blood = _blood_of_any_age(rng)
            centre = on_inner_table((each, rng.uniform(-0.45, 0.4), rng.uniform(0.1, 0.75)))
            thickness = float(np.clip(rng.lognormal(np.log(6.0), 0.5), 2.2, 20))
            if blood.hu < 50:
                thickness += 4.0  # thin old blood would look like the wider fluid space of old age
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
            AlongDura(
                _fresh_blood(rng), centre, float(rng.uniform(32, 55)), side, float(rng.uniform(2.0, 5.5)), on_tentorium
            )
        )
    return bleeds


def _draw_subarachnoid(rng: np.random.Generator, side: int, traumatic: bool, subtypes: tuple[str, ...]) -> list[Bleed]:
    if not traumatic and rng.random() < 0.6:  # from an aneurysm
        bleeds: list[Bleed] = []
        amount = float(rng.uniform(0.6, 1.0))
        for place in (CISTERNS[0], *(CISTERNS[i] for i in rng.permutation(3)[: rng.integers(0, 4)] + 1)):
            centre = (side * float(place[0]), float(place[1]), float(place[2]))
            bleeds.append(Subarachnoid(_fresh_blood(rng), centre, float(rng.uniform(22, 40)), amount, 70.0))
            if place[0] and rng.random() < 0.5:
                bleeds.append(
                    Subarachnoid(
                        _fresh_blood(rng), (-centre[0], *centre[1:]), float(rng.uniform(18, 35)), amount * 0.8, 70.0
                    )
                )
        return bleeds
    bleeds = []
    for _ in range(rng.integers(1, 4)):
        each = side if rng.random() < 0.6 else -side
        centre = on_inner_table((each, rng.uniform(-1.0, 0.8), rng.uniform(-0.1, 1.2)))
        bleeds.append(
            Subarachnoid(
                _fresh_blood(rng),
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
    kind, blood = rng.random(), _fresh_blood(rng)
    if kind < 0.45:  # a little blood, settled in both occipital horns
        return [Intraventricular(blood, (0.0, 45.0, 8.0), 60.0, float(rng.uniform(32, 52)))]
    if kind < 0.8:  # most of one lateral ventricle, and some overflow into the other
        one = Intraventricular(
            blood, (side * 22.0, 15.0, 10.0), float(rng.uniform(26, 48)), float(rng.uniform(-38, 30))
        )
        other = Intraventricular(blood, (-side * 22.0, 40.0, 6.0), 40.0, float(rng.uniform(32, 50)))
        return [one, other]
    # a cast of all ventricles, including the third and fourth
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
    if rng.random() < 0.15:  # several clots, as in amyloid angiopathy, metastases or septic emboli
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
        blood=_fresh_blood(rng),
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
