"""The bleeds against what defines each of them, at a pixel of 2 mm."""

import numpy as np
import pytest

from src.labels import SUBTYPES
from src.synthetic.easy.anatomy import Head, Plane
from src.synthetic.easy.bleeds import BLEEDS
from src.synthetic.easy.scan import VISIBLE_MM2

PIXEL_MM = 2.0


def plane(z: float) -> Plane:
    axis = (np.arange(120, dtype=np.float32) - 59.5) * np.float32(PIXEL_MM)
    x, y = np.meshgrid(axis, axis)
    return Plane(x, y, z, x, y, PIXEL_MM)


def draw(name: str, seed: int):
    rng = np.random.default_rng(seed)
    return Head.draw(rng), BLEEDS[name].draw(rng)


def is_visible(cover: np.ndarray) -> bool:
    return (cover >= 0.5).sum() * PIXEL_MM**2 >= VISIBLE_MM2


def test_there_is_a_bleed_for_each_subtype():
    assert set(BLEEDS) == set(SUBTYPES)


@pytest.mark.parametrize("name", SUBTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_bleed_is_blood_inside_the_skull_and_spans_neighbouring_sections(name, seed):
    head, bleed = draw(name, seed)
    heights = np.arange(-45.0, 75.0, 5.0)
    visible = []
    for z in heights:
        section = head.section(plane(float(z)))
        cover = bleed.cover(section)
        visible.append(is_visible(cover))
        assert (cover[section.depth < -PIXEL_MM] == 0).all()
        if visible[-1]:
            blood = bleed.paint(section.hu, section)[(cover >= 0.5) & (section.cavity > PIXEL_MM)]
            brain = section.hu[(section.cavity > 5) & (cover == 0)]
            assert 50 < blood.mean() < 80
            assert np.median(blood) - np.median(brain) > 20
    rows = np.flatnonzero(visible)
    assert rows.size >= 6, "at least 30 mm"
    gap = 15.0 if name == "intraventricular" else 0.0  # the aqueduct is thin
    assert rows.size >= rows[-1] - rows[0] + 1 - gap / 5.0, "in one piece"
    assert not all(visible)


def middle(name: str, seed: int):
    head, bleed = draw(name, seed)
    section = head.section(plane(bleed.z))
    return section, bleed, bleed.cover(section) >= 0.5


@pytest.mark.parametrize("seed", range(3))
def test_epidural_is_short_and_thick_and_subdural_long_and_thin(seed):
    extents = {}
    for name in ("epidural", "subdural"):
        section, bleed, mask = middle(name, seed)
        angles = bleed.side * section.azimuth[mask]
        assert (angles > 0).all(), "on one side of the midline"
        extents[name] = np.ptp(angles) / section.depth[mask].max()
        assert section.depth[mask].min() < PIXEL_MM, "against the skull"
    assert extents["subdural"] > 3 * extents["epidural"]


@pytest.mark.parametrize("seed", range(3))
def test_the_inner_face_of_an_epidural_is_convex_towards_the_brain(seed):
    section, bleed, mask = middle("epidural", seed)
    depth, offset = section.depth[mask], np.abs(bleed.side * section.azimuth[mask] - bleed.azimuth)
    assert depth[offset < 0.1].max() > depth[offset > 0.7 * offset.max()].max() + 5


@pytest.mark.parametrize("seed", range(3))
def test_intraventricular_blood_lies_in_the_ventricles_below_its_level(seed):
    section, bleed, mask = middle("intraventricular", seed)
    assert section.ventricles[mask].min() > -PIXEL_MM
    assert section.plane.y[mask].min() > bleed.level - PIXEL_MM


@pytest.mark.parametrize("seed", range(3))
def test_subarachnoid_blood_is_thin_and_in_place_of_csf(seed):
    section, _, mask = middle("subarachnoid", seed)
    assert np.median(section.hu[mask]) < 30
    eroded = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    assert eroded.sum() < 0.35 * mask.sum()


@pytest.mark.parametrize("seed", range(3))
def test_intraparenchymal_blood_keeps_off_skull_and_ventricles_and_has_a_dark_rim(seed):
    section, bleed, mask = middle("intraparenchymal", seed)
    assert section.depth[mask].min() > 2
    assert section.ventricles[mask].max() < 0
    distance = bleed.inside(section)
    rim = (distance < -PIXEL_MM) & (distance > PIXEL_MM - bleed.rim) & (section.depth > 5) & (section.ventricles < -3)
    assert rim.any()
    assert np.median(bleed.paint(section.hu, section)[rim]) < 25
