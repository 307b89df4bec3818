"""From anatomy to slices: geometry, the slab, labels."""

from dataclasses import replace

import numpy as np
import pytest

from src.labels import LABELS
from src.synthetic.hard.atlas import Brain, Skull
from src.synthetic.hard.bleeds import Blood, Subdural
from src.synthetic.hard.findings import (
    Calcification,
    Catheter,
    Craniotomy,
    Finding,
    Infarct,
    Metal,
    Swelling,
    Tumour,
    Vessel,
    draw_findings,
)
from src.synthetic.hard.head import Head
from src.synthetic.hard.physics import _spectrum
from src.synthetic.hard.scan import BLOOD_FRACTION, VISIBLE_FRACTION, Patient, Pose, Scan
from src.synthetic.hard.shapes import along, on_inner_table
from src.synthetic.plan import MIXTURE, Study

PLAIN = replace(
    Head.draw(np.random.default_rng(0)),
    mirrored=False, scale=(1.0, 1.0, 1.0), shear=0.0, skull_bend_mm=0.0, brain_bend_mm=0.0,
)  # fmt: skip


def study(*, bleeds: tuple[str, ...] = (), slices: int = 24, rows: int = 256, tilted: bool = False) -> Study:
    return Study(
        patient=4, number=0, split="train", patient_id="ID_1", study_id="ID_2", series_id="ID_3",
        slice_ids=tuple(f"ID_{i:09x}" for i in range(slices)), bleeds=bleeds,
        encoding="16-bit signed without intercept", explicit_vr=True, window=("40", "80"), rows=rows, columns=rows,
        tilted=tilted,
    )  # fmt: skip


@pytest.mark.parametrize("tilted", [False, True])
def test_distances_by_the_headers_are_those_in_the_head(tilted):
    """Three dense spots at known places in the head, found in the pixels and placed by the headers alone."""
    spots = np.array([(-30.0, -20.0, 30.0), (32.0, 30.0, 40.0), (4.0, 10.0, 62.0)])
    marks: list[Finding] = [Calcification(tuple(s), 12.0, 900.0, 5.0, (1.0, 1.0, 1.0), 0.0) for s in spots]
    scan = Scan(Patient(PLAIN, [], marks), study(slices=60, tilted=tilted), 1)
    dense, where = [], []
    for index in range(60):
        rendered = scan.slice(index)
        hu, header = rendered.stored.astype(float), rendered.header
        row, column = np.nonzero(hu > 250)
        down, right = np.array([0.0, np.cos(header.tilt), -np.sin(header.tilt)]), np.array([1.0, 0.0, 0.0])
        where.append(header.position + header.pixel_mm * (row[:, None] * down + column[:, None] * right))
        dense.append(hu[row, column])
    weights, places = np.concatenate(dense), np.concatenate(where)
    # a first guess from the pose, and the centre of what is dense around it
    centres = [_centre_near(places, weights, _in_scanner(scan, spot)) for spot in spots]
    for i in range(3):
        for j in range(i):
            expected = np.linalg.norm(spots[i] - spots[j])
            assert np.linalg.norm(centres[i] - centres[j]) == pytest.approx(expected, abs=1.2)


def _in_scanner(scan: Scan, spot: np.ndarray) -> np.ndarray:
    """Where a place in the head is by the pose: found by search, so that the way back need not be written."""
    pose, best = scan.pose, np.zeros(3)
    for step in (32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5):
        moves = np.mgrid[-2:3, -2:3, -2:3].reshape(3, -1) * step + best[:, None]
        best = moves[:, np.argmin(((pose.to_head(moves) - spot[:, None]) ** 2).sum(axis=0))]
    return best + np.array([0.0, 0.0, pose.table_mm])


def _centre_near(places: np.ndarray, weights: np.ndarray, guess: np.ndarray) -> np.ndarray:
    near = np.linalg.norm(places - guess, axis=1) < 9.0
    assert near.sum() > 20, "the spot is where the pose says"
    return np.average(places[near], axis=0, weights=weights[near])


def test_a_slice_is_the_mean_of_what_its_thickness_holds():
    scan = Scan.of(study(bleeds=("intraparenchymal",), slices=12), 2)
    thick = scan.anatomy(6)[0]
    pose = scan.pose
    thin = []
    for offset in (np.arange(16) + 0.5) / 16 - 0.5:
        other = Scan.of(study(bleeds=("intraparenchymal",), slices=12), 2)
        moved = tuple(at + offset * pose.thickness_mm[6] for at in pose.positions_mm)
        other.__dict__["_drawn"] = (
            replace(pose, positions_mm=moved, thickness_mm=(0.1,) * 12), *scan._drawn[1:],
        )  # fmt: skip
        thin.append(other.anatomy(6)[0])
    mean = np.mean(thin, axis=0)
    brain = (mean > 0) & (mean < 80)
    assert np.abs(thick - mean)[brain].mean() < 1.5
    assert np.abs(thick - thin[0])[brain].mean() > 2 * np.abs(thick - mean)[brain].mean()


@pytest.mark.parametrize("subtype", LABELS[1:])
def test_labels_say_where_enough_pixels_bleed(subtype):
    scan = Scan.of(study(bleeds=(subtype,), slices=20), 6)
    seen = []
    for index in range(20):
        hu, fractions = scan.anatomy(index)
        fraction = fractions.get(subtype, np.zeros((256, 256)))
        bright = (hu < 150) & ((hu >= 45) | (min(bleed.blood.hu for _, bleed in scan.patient.bleeds) < 45))
        enough = ((fraction >= BLOOD_FRACTION) & bright).sum() >= VISIBLE_FRACTION * fraction.size
        rendered = scan.slice(index)
        seen.append(enough)
        assert dict(zip(LABELS, rendered.labels, strict=True)) == {
            name: int(enough and name in ("any", subtype)) for name in LABELS
        }
        assert set(rendered.covers) == ({subtype} if enough else set())
    assert any(seen)
    assert not all(seen)


def test_no_label_tells_of_what_bone_outshines_or_nobody_sees():
    for patient, (subtypes, _) in enumerate(MIXTURE):
        scan = Scan.of(replace(study(bleeds=subtypes, slices=12), patient=patient), 8)
        old = {name for name, bleed in scan.patient.bleeds if bleed.blood.hu < 45}
        for index in range(12):
            hu, fractions = scan.anatomy(index)
            for name in scan.slice(index).covers:
                seen = scan.seen(name, fractions[name], hu)
                assert seen.sum() >= VISIBLE_FRACTION * hu.size
                assert hu[seen].max() < 150
                assert name in old or hu[seen].min() >= 45


FINDINGS = {
    "calcification": (Calcification((20.0, 0.0, 20.0), 10, 300.0, 4.0, (1.0, 1.0, 1.0), 0.0), 150, 320),
    "vessel": (Vessel((8.0, 0.0, 20.0), 24, (28.0, 0.0, 20.0), 2.0, 60.0), 42, 65),
    "infarct": (Infarct((30.0, 20.0, 20.0), 26, 10.0, (1.0, 1.0, 1.0), 10.0), 0, 22),
    "tumour": (Tumour((30.0, 20.0, 30.0), 24, 12.0, 52.0, 52.0, 0.0), 44, 60),
    "metal": (Metal((30.0, 20.0, 20.0), 8, 3.0), 3000, 20001),
    "drain": (Catheter((70.0, 20.0, 20.0), 60, (20.0, 20.0, 20.0)), 60, 600),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_is_where_it_is_put_as_dense_as_it_is_and_nowhere_else(name):
    finding, least, most = FINDINGS[name]
    plain = Scan(Patient(PLAIN, [], []), study(slices=40), 1)
    level = min(range(40), key=lambda i: _distances(plain, i, finding).min())
    with_it = Scan(Patient(PLAIN, [], [finding]), study(slices=40), 1)
    there, before = with_it.anatomy(level)[0], plain.anatomy(level)[0]
    changed = np.abs(there - before) > 4
    middle = np.unravel_index(np.argmin(_distances(plain, level, finding)), there.shape)
    assert changed.any()
    assert least <= there[tuple(slice(max(0, i - 2), i + 3) for i in middle)].max() <= most or name == "infarct"
    if name == "infarct":
        assert least <= there[middle] <= most
    assert _distances(plain, level, finding)[changed].max() < finding.reach_mm + 2


def _distances(scan: Scan, index: int, finding: Finding) -> np.ndarray:
    """mm of each pixel of a slice's middle from a finding's place."""
    position, tilt = scan.pose.positions_mm[index], scan.pose.tilt
    down, across = scan._pixels_mm
    row, column = np.meshgrid(down, across, indexing="ij")
    assert tilt == 0
    places = scan.pose.to_head(np.stack([column, row, np.full_like(row, position)]))
    return np.sqrt(((places - np.reshape(finding.centre, (3, 1, 1))) ** 2).sum(axis=0))


def test_a_craniotomy_cuts_the_vault_and_a_swelling_stays_in_the_scalp():
    centre = on_inner_table((1.0, 0.0, 0.4))
    flap = Craniotomy(centre, 42.0, 28.0, along(on_inner_table((1.0, -0.55, 0.4)), 0.0))
    swelling = Swelling(centre, 40.0)
    bare = Scan(Patient(PLAIN, [], []), study(slices=30), 1)
    cut = swollen = 0
    for index in range(12, 24):
        before = bare.anatomy(index)[0]
        opened = Scan(Patient(PLAIN, [], [flap]), study(slices=30), 1).anatomy(index)[0]
        lost = before - opened > 300
        cut += lost.sum()
        assert (before[lost] > 300).all()
        fuller = Scan(Patient(PLAIN, [], [swelling]), study(slices=30), 1).anatomy(index)[0]
        grown = fuller - before > 30
        swollen += grown.sum()
        assert (before[grown] < 30).all(), "fat"
    assert cut > 100
    assert swollen > 100


def test_the_head_lies_on_its_headrest():
    for patient in range(12):
        scan = Scan.of(replace(study(slices=24, tilted=patient % 2 == 0), patient=patient), 13)
        shell = scan._background > -800
        bare = Scan.of(scan.study, 13)
        bare.__dict__["_background"] = np.full(shell.shape, -1000.0, dtype=np.float32)
        heads = [bare.anatomy(index)[0] > -400 for index in range(0, 24, 2)]
        assert shell.any()
        assert max((head & shell).sum() for head in heads) < 0.02 * shell.sum(), "none of the shell is within the head"
        lowest = max(np.flatnonzero(head.any(axis=1))[-1] for head in heads)
        assert np.flatnonzero(shell.any(axis=1))[-1] > lowest - 40, "and it is under it, or cut off by the picture"


def test_tissues_have_the_densities_of_ct_whatever_the_patient():
    """Grey matter, white matter and fluid on either side of what textbooks give, grey above white in everybody."""
    tissue = np.array([[0.0, 0.58, 1.0]], dtype=np.float32)  # fluid, grey, white
    zero, deep = np.zeros_like(tissue), np.full_like(tissue, 15.0)
    brain = Brain(tissue, np.full_like(tissue, -8.0), zero, zero)
    for seed in range(40):
        head = replace(Head.draw(np.random.default_rng(seed)), white_matter=0.0)
        fluid, grey, white = head.brain_hu(brain, Skull(zero, zero, deep, zero), zero, zero)[0]
        assert 5 <= fluid <= 15
        assert 32 <= grey <= 43
        assert 22 <= white <= 33
        assert 5 <= grey - white <= 12
        at_bone = head.brain_hu(brain, Skull(zero, zero, zero, zero), zero, zero)[0]
        assert (at_bone > 40).all(), "dura: no dark line between bone and brain"


def test_memory_does_not_grow_with_the_studies():
    for patient in range(8):
        Scan.of(replace(study(slices=4), patient=patient), 13).slice(2)
    assert _spectrum.cache_info().currsize <= 4


def test_what_is_too_little_to_be_labelled_is_still_there():
    """Bleeds end within a slice: at their ends the pixels hold blood that no label tells of."""
    unlabelled = 0
    for patient in range(6):
        scan = Scan.of(replace(study(bleeds=("intraparenchymal",)), patient=patient), 0)
        for index in range(24):
            fraction = scan.anatomy(index)[1].get("intraparenchymal")
            unlabelled += fraction is not None and fraction.max() > 0 and not scan.slice(index).labels.any()
    assert unlabelled >= 3


def test_a_bleed_moves_the_brain_and_leaves_the_skull():
    plain = Scan.of(study(), 11)
    clot = Subdural(Blood(65.0, 65.0, 0.0, 0.0), on_inner_table((1.0, 0.0, 0.4)), 70.0, 12.0, 50.0)
    with_clot, without = (Scan(replace(plain.patient, bleeds=b), study(), 11) for b in ([("subdural", clot)], []))
    (there, fractions), (before, _) = with_clot.anatomy(13), without.anatomy(13)
    assert fractions["subdural"].sum() > 500
    bone = before > 1100
    assert np.abs(there - before)[bone].mean() < 2
    beside = (before > 0) & (before < 60) & (fractions["subdural"] == 0)
    assert np.abs(there - before)[beside].mean() > 0.8


def test_a_patients_second_study_shows_the_same_head_from_elsewhere():
    first, second = study(), replace(study(), number=1)
    one, two = Scan.of(first, 3), Scan.of(second, 3)
    assert one.patient.head == two.patient.head
    assert one.pose != two.pose
    assert (one.slice(12).stored != two.slice(12).stored).mean() > 0.3


def test_small_pictures_are_the_means_of_finer_ones():
    small = Scan.of(study(rows=64), 5).slice(12)
    assert small.stored.shape == (64, 64)
    brain = small.stored[(small.stored > 0) & (small.stored < 80)]
    assert brain.size > 300
    assert 22 < np.median(brain) < 42


@pytest.mark.parametrize("count", [4, 11, 24, 40, 60])
def test_slices_lie_one_above_the_other_within_the_head(count):
    for seed in range(20):
        pose = Pose.draw(np.random.default_rng(seed), study(slices=count, tilted=seed % 2 == 0))
        gaps = np.diff(pose.positions_mm)
        assert len(pose.thickness_mm) == count
        assert (gaps > 0.5).all()
        assert (np.array(pose.thickness_mm) <= max(gaps) + 1e-9).all()
        assert abs(pose.positions_mm[0] + pose.positions_mm[-1]) < 1e-9
        assert pose.positions_mm[-1] - pose.positions_mm[0] < 160


def test_findings_grow_with_age_and_none_is_called_blood():
    def count(age: float) -> float:
        return np.mean([len(draw_findings(age, (), np.random.default_rng(seed))) for seed in range(60)])

    assert count(1.0) > count(0.0) + 1
    for patient in range(8):
        scan = Scan.of(replace(study(slices=8), patient=patient), 9)
        assert scan.patient.findings is not None
        assert not any(scan.slice(index).labels.any() for index in range(8))
