"""The atlas, and each bleed against what defines it, on sections of the undeformed atlas at a pixel of 1 mm."""

from dataclasses import replace

import numpy as np
import pytest

from src.labels import SUBTYPES
from src.synthetic.hard.atlas import ATLAS_PATH, ORIGIN_MM, atlas
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
from src.synthetic.hard.head import Head
from src.synthetic.hard.random_bleeds import draw_bleeds
from src.synthetic.hard.shapes import CENTRE, CORONAL_Y, Fields, along, on_inner_table, plate_mm
from src.synthetic.plan import MIXTURE

LEVELS = range(-40, 80, 6)
HEAD = replace(Head.draw(np.random.default_rng(0)), ventricle_mm=0.5, atrophy=0.0)


def section(z: float) -> Fields:
    across, down = np.meshgrid(np.arange(-80.0, 81.0), np.arange(-95.0, 120.0))
    where = np.stack([across, down, np.full_like(across, z)]).astype(np.float32)
    skull, brain = atlas().skull(where), atlas().brain(where)
    ventricle = HEAD.ventricle_fraction(brain, where)
    fluid = np.clip((0.4 - brain.tissue) * 4.0, 0, 1) * (1 - ventricle)
    return Fields(where, skull, brain, fluid, ventricle)


SECTIONS = [section(float(z)) for z in LEVELS]


def covered(bleed: Bleed, fields: Fields) -> np.ndarray:
    return bleed.fraction(fields) * np.clip(fields.skull.depth + 0.5, 0, 1) >= 0.5


def drawn(kind: type[Bleed], subtypes: tuple[str, ...], seeds: int = 12) -> list[Bleed]:
    bleeds = [bleed for seed in range(seeds) for _, bleed in draw_bleeds(subtypes, np.random.default_rng(seed))]
    return [bleed for bleed in bleeds if isinstance(bleed, kind)]


# ---- the atlas


def test_voxels_are_read_as_they_are_stored_and_between_them_linearly():
    points = np.array([[-30, 20, 10], [-29, 20, 10], [-29.5, 20, 10], [-29.5, 20, 10.5], [-29.5, 20, 11]]).T[:, None]
    brain = atlas().brain(points.astype(np.float32)).tissue[0]
    stored = np.load(ATLAS_PATH)["tissue"]
    x, y, z = (int(mm - origin) for mm, origin in zip((-30, 20, 10), ORIGIN_MM, strict=True))
    assert brain[0] == pytest.approx(stored[z, y, x] / 252, abs=1e-6)
    assert brain[2] == pytest.approx((brain[0] + brain[1]) / 2, abs=0.005)
    assert brain[3] == pytest.approx((brain[2] + brain[4]) / 2, abs=0.005)


def test_beyond_the_atlas_is_air():
    far = np.array([[150, -150, 0, 0], [0, 0, -150, 0], [0, 0, 0, 150]], dtype=np.float32)[:, None]
    assert (atlas().skull(far).outside < -950).all()
    assert (atlas().skull(far).bone < 0).all()


def test_a_head_has_its_parts_where_anatomy_has_them():
    """Places in MNI space that any atlas of the brain agrees on: x to the left, y to the back, z up."""
    places = {
        "lateral ventricle": ((8, 8, 18), lambda s, b: b.ventricle > 0),
        "its other side": ((-10, 8, 20), lambda s, b: b.ventricle > 0),
        "fourth ventricle": ((0, 44, -32), lambda s, b: b.ventricle > 0),
        "white matter": ((26, 20, 28), lambda s, b: b.tissue > 0.85),
        "pons": ((0, 28, -32), lambda s, b: b.tissue > 0.6),
        "vault": ((0, -72, 40), lambda s, b: s.bone > 0),
        "petrous bone": ((42, 24, -36), lambda s, b: s.bone > 0),
        "sphenoid sinus": ((0, -14, -36), lambda s, b: s.outside < -500),
        "eye": ((35, -57, -36), lambda s, b: (s.outside > 0) & (s.outside < 30)),
    }
    for name, (place, holds) in places.items():
        near = np.array(place, dtype=np.float32)[:, None, None] + np.mgrid[-3:4, -3:4, -3:4].reshape(3, 7, 49)
        found = holds(atlas().skull(near.astype(np.float32)), atlas().brain(near.astype(np.float32)))
        assert found.mean() > 0.3, name


@pytest.mark.parametrize("direction", [(1, 0, 0.2), (-1, 0.3, 0.4), (0.2, -1, 0.3), (0, 0.2, 1)])
def test_the_inner_table_is_where_depth_is_nought(direction):
    point = np.array(on_inner_table(direction), dtype=np.float32)[:, None, None]
    assert abs(atlas().skull(point).depth[0, 0]) < 0.6
    assert (point[:, 0, 0] - CENTRE) @ direction > 0
    np.testing.assert_allclose(along((*CENTRE[:2], 50.0), 4.0), (*CENTRE[:2], 54.0))


# ---- bleeds


@pytest.mark.parametrize("subtypes", [subtypes for subtypes, _ in MIXTURE])
def test_every_subtype_asked_for_is_drawn_and_no_other(subtypes):
    for seed in range(8):
        made = draw_bleeds(subtypes, np.random.default_rng(seed))
        assert {name for name, _ in made} == set(subtypes) <= set(SUBTYPES)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_a_bleed_is_inside_the_skull_within_its_reach_and_seen_in_some_sections_only(subtype):
    for seed in range(6):
        for _, bleed in draw_bleeds((subtype,), np.random.default_rng(seed)):
            sizes = []
            for fields in SECTIONS:
                mask = covered(bleed, fields)
                sizes.append(int(mask.sum()))
                assert (fields.skull.depth[mask] >= -0.01).all()
                far = np.sqrt(((fields.where - np.reshape(bleed.centre, (3, 1, 1))) ** 2).sum(axis=0))
                assert not mask.any() or far[mask].max() <= bleed.reach_mm + 1
            assert min(sizes) == 0, "it ends"


def test_epidural_blood_keeps_to_its_bone_and_is_thickest_in_its_middle():
    for bleed in drawn(Epidural, ("epidural",)):
        thickest = max(SECTIONS, key=lambda fields: covered(bleed, fields).sum())
        mask = covered(bleed, thickest)
        assert mask.sum() > 20
        assert (plate_mm(thickest.where, bleed.plate)[mask] > -0.6).all(), "it stops at sutures"
        off = np.sqrt(((thickest.where - np.reshape(bleed.centre, (3, 1, 1))) ** 2).sum(axis=0))
        depth = thickest.skull.depth
        near, away = mask & (off < 0.45 * bleed.half_length_mm), mask & (off > 0.8 * bleed.half_length_mm)
        if near.any() and away.any():
            assert depth[near].max() > depth[away].max() + 1, "a lens: its inner face bulges"


def test_subdural_blood_crosses_sutures_but_not_the_midline_and_is_longer_than_thick():
    crossed = 0
    for bleed in drawn(Subdural, ("subdural",)):
        side = np.sign(bleed.centre[0])
        masks = [covered(bleed, fields) for fields in SECTIONS]
        for fields, mask in zip(SECTIONS, masks, strict=True):
            assert (side * fields.where[0][mask] > 0).all()
            assert not mask.any() or fields.skull.depth[mask].max() < bleed.thickness_mm + 2
        y = np.concatenate([fields.where[1][mask] for fields, mask in zip(SECTIONS, masks, strict=True)])
        assert np.ptp(y) > 3 * bleed.thickness_mm
        crossed += y.min() < CORONAL_Y - 8 and y.max() > CORONAL_Y + 8
    assert crossed >= 3


def test_blood_along_falx_or_tentorium_is_a_thin_sheet():
    found = drawn(AlongDura, ("subdural",), 40)
    assert {bleed.on_tentorium for bleed in found} == {False, True}
    for bleed in found:
        for fields in SECTIONS:
            mask = covered(bleed, fields)
            if not bleed.on_tentorium and mask.any():
                assert np.abs(fields.where[0][mask]).max() < bleed.thickness_mm + 2
                assert (bleed.side * fields.where[0][mask] > -1.1).all()


def test_subarachnoid_blood_takes_the_place_of_fluid():
    for bleed in drawn(Subarachnoid, ("subarachnoid",)):
        values = [fields.brain.tissue[covered(bleed, fields)] for fields in SECTIONS]
        assert np.concatenate(values).max(initial=0) < 0.55
        for fields in SECTIONS:
            assert (fields.ventricle[covered(bleed, fields)] < 0.6).all()


def test_intraventricular_blood_lies_in_the_ventricles_behind_its_level():
    seen = 0
    for bleed in drawn(Intraventricular, ("intraventricular",)):
        for fields in SECTIONS:
            mask = covered(bleed, fields)
            seen += mask.sum()
            assert (fields.ventricle[mask] >= 0.5).all()
            assert (fields.where[1][mask] > bleed.level_mm - 3).all()
    assert seen > 1000


def test_a_clot_has_its_volume_an_oedema_around_it_and_spares_ventricles_unless_it_breaks_in():
    blood = Blood(65.0, 65.0, 0.0, 0.0)
    clot = Intraparenchymal(blood, (36.0, 30.0, 38.0), 40.0, 12.0, (1.0, 1.0, 1.0), 0.0, 6.0, ruptured=False)
    fields = section(38.0)
    mask = covered(clot, fields)
    assert mask.sum() == pytest.approx(np.pi * 12**2, rel=0.05)
    hu = np.full(mask.shape, 30.0)
    rim = clot.around(hu, fields)
    outside = np.hypot(fields.where[0] - 36, fields.where[1] - 30) - 12
    white = fields.brain.tissue > 0.8
    assert np.median(rim[(outside > 1) & (outside < 4) & white]) < 24
    assert (rim[outside > 9] == 30).all()
    at_wall = replace(clot, centre=(14.0, 6.0, 18.0))
    into = section(18.0)
    assert not (covered(at_wall, into) & (into.ventricle > 0.6)).any()
    assert (covered(replace(at_wall, ruptured=True), into) & (into.ventricle > 0.6)).any()


def test_what_a_clot_pushes_came_from_nearer_its_middle_and_volume_is_kept():
    clot = Intraparenchymal(Blood(65, 65, 0, 0), (30.0, 20.0, 26.0), 60.0, 14.0, (1.0, 1.0, 1.0), 0.0, 0.0, False)
    radii = np.array([18.0, 22.0, 28.0, 36.0, 60.0], dtype=np.float32)
    points = np.array(clot.centre, dtype=np.float32)[:, None] + np.array([[1.0], [0.0], [0.0]]) * radii
    push = clot.push(points, np.full(radii.shape, 40.0, dtype=np.float32))
    before = radii + push[0]
    assert (push[0] < 0).all()
    assert (np.diff(before) > 0).all(), "nothing is folded"
    np.testing.assert_allclose(radii**3 - before**3, 0.7 * 14**3, rtol=1e-3)
    assert np.abs(push[1:]).max() < 1e-5
    at_the_skull = clot.push(points, np.zeros(radii.shape, dtype=np.float32))
    assert np.abs(at_the_skull).max() == 0, "the skull does not give way"


@pytest.mark.parametrize("kind", ["epidural", "subdural"])
def test_a_clot_on_the_brain_pushes_it_away_from_the_skull_and_less_the_deeper(kind):
    bleed = next(b for b in drawn({"epidural": Epidural, "subdural": Subdural}[kind], (kind,)) if b.thickness_mm > 6)
    outwards = np.subtract(bleed.centre, CENTRE) / np.linalg.norm(np.subtract(bleed.centre, CENTRE))
    depth = np.array([6.0, 15.0, 30.0, 60.0], dtype=np.float32)
    points = np.array(bleed.centre)[:, None] - outwards[:, None] * 5.0 * np.ones(4)  # one place, as if at these depths
    push = bleed.push(points.astype(np.float32), depth)
    size = outwards @ push
    assert (np.diff(size) < 0).all()
    assert 0.5 * bleed.thickness_mm < size[0] < bleed.thickness_mm
    np.testing.assert_allclose(push, outwards[:, None] * size, atol=1e-5)


def test_fresh_blood_is_bright_and_old_blood_of_subdurals_is_not():
    fresh = [b.blood.hu for b in drawn(Intraparenchymal, ("intraparenchymal",), 30)]
    assert 50 <= min(fresh) < max(fresh) <= 80
    of_any_age = [b.blood for b in drawn(Subdural, ("subdural",), 80)]
    assert {"old", "as the brain", "fresh"} == {
        "old" if b.hu < 30 else "as the brain" if b.hu < 50 else "fresh" for b in of_any_age
    }
    mixed = next(b for b in of_any_age if b.below_hu > b.hu)
    fields = section(20.0)
    hu = mixed.at(fields)
    behind, front = fields.where[1] > mixed.level_mm + 15, fields.where[1] < mixed.level_mm - 15
    assert np.median(hu[behind]) > np.median(hu[front]) + 15, "cells settle"
