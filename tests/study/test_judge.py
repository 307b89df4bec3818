from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.detector.folder import DistanceLimits, Network
from src.study.find import Scan, find_studies
from src.study.judge import Judgement, judge, measure_brain, warn_of_distance
from src.study.read import ReadScan, read_scan
from tests.study.conftest import SPACING, Head, head_hu


@pytest.fixture
def head(write_head: Head, tmp_path: Path) -> ReadScan:
    write_head(tmp_path / "head", 28)
    return read_scan(find_studies([tmp_path / "head"], engine="serial").studies[0].scans[0])


Judge = Callable[..., Judgement]


def _judge(head: ReadScan, gap_mm: float = 5.0, **changes: object) -> Judgement:
    scan = head.scan
    slices = [replace(each, **changes) for each in scan.slices]  # type: ignore[arg-type]
    return judge(Scan(slices, scan.z, 0), head.pixels, gap_mm)


def test_a_head_has_no_warnings(head: ReadScan) -> None:
    assert _judge(head) == Judgement("", [])


def test_a_real_head_has_none_either(real_head_ct: Path) -> None:
    read = read_scan(find_studies([real_head_ct], engine="serial").studies[0].scans[0])
    assert judge(read.scan, read.pixels, 5.0) == Judgement("", [])


def test_area_mean_and_noise_are_measured() -> None:
    brain = measure_brain(head_hu(1)[0], SPACING, SPACING)
    expected = np.pi * 0.86 * 40 * 0.86 * 33 * SPACING**2 / 100  # the ellipse
    assert brain.area == pytest.approx(expected, rel=0.05)
    assert brain.mean == pytest.approx(34, abs=1.5)
    assert brain.noise == pytest.approx(4, rel=0.15)
    # a smaller matrix over the same field of view is the same head
    twice = measure_brain(np.repeat(np.repeat(head_hu(1)[0], 2, 0), 2, 1), SPACING / 2, SPACING / 2)
    assert twice.area == pytest.approx(brain.area, rel=0.03)


def test_a_skull_with_a_hole_is_a_skull() -> None:
    hu = head_hu(1)[0]
    hu[38:58, 60:] = np.where(hu[38:58, 60:] > 200, 40, hu[38:58, 60:])  # 44 mm of bone are missing
    assert measure_brain(hu, SPACING, SPACING).area > 100


def _trunk() -> np.ndarray:
    """Soft tissue with a spine and eight ribs around it, 300 mm wide."""
    rows, columns = np.indices((SIZE_OF_TRUNK, SIZE_OF_TRUNK)) - SIZE_OF_TRUNK / 2
    hu = np.full(rows.shape, -1000, dtype=np.int16)
    hu[np.hypot(rows / 100, columns / 150) < 1] = 45
    hu[np.hypot(rows - 70, columns) < 22] = 400
    hu[np.hypot(rows - 70, columns) < 8] = 30  # the canal
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        hu[np.hypot(rows - 90 * np.sin(angle), columns - 135 * np.cos(angle)) < 8] = 500
    return hu


SIZE_OF_TRUNK = 400


def test_what_is_no_head_is_refused(head: ReadScan) -> None:
    water = np.full((96, 96), -1000, dtype=np.int16)
    rows, columns = np.indices(water.shape) - 48
    water[np.hypot(rows, columns) < 40] = 120  # an acrylic shell
    water[np.hypot(rows, columns) < 37] = 0
    for pixels in (_trunk(), water, np.full((96, 96), 40, dtype=np.int16), np.full((96, 96), -1000, dtype=np.int16)):
        refusal = judge(head.scan, [pixels] * 4, 5.0).refusal
        assert refusal.startswith("not a head CT that can be judged: bone surrounds "), refusal
    # a head's worth of slices among many of a neck is enough
    neck = [np.full((96, 96), 40, dtype=np.int16)] * 24
    assert not judge(head.scan, [*neck, *head.pixels[:4]], 5.0).refusal


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contrast": "Iomeprol"}, "Contrast was given (Iomeprol)"),
        ({"kernel": "BONEPLUS"}, "Kernel BONEPLUS is for bone."),
        ({"age": 7.2}, "The patient is 7 years old"),
        ({"gap_mm": 1.0}, "Slices every 5.0 mm; the detector was trained on slices every 1.0 mm."),
    ],
)
def test_headers_warn(head: ReadScan, changes: dict[str, object], words: str) -> None:
    (warning,) = _judge(head, **changes).warnings  # type: ignore[arg-type]
    assert warning.startswith(words)


def test_places_warn(head: ReadScan) -> None:
    def warnings(kept: list[int], z: np.ndarray | None = None) -> list[str]:
        scan = Scan([head.scan.slices[i] for i in kept], head.scan.z[kept] if z is None else z, 0)
        return judge(scan, [head.pixels[i] for i in kept], 5.0).warnings

    assert warnings([*range(10), *range(12, 28)]) == ["About 2 slices are missing between others."]
    assert warnings(list(range(8))) == ["Only 8 slices."]
    assert warnings([3]) == ["Only 1 slice."]
    assert warnings(list(range(12))) == ["The slices span 55 mm: part of a head."]
    z = head.scan.z.copy()
    z[5] = z[4]
    assert "1 slice lies where another one does." in warnings(list(range(28)), z)
    z[:] = np.nan
    assert "28 of 28 slices have no position: each is read by itself." in warnings(list(range(28)), z)


def test_pixels_warn(head: ReadScan) -> None:
    rng = np.random.default_rng(0)
    noisy = [(hu + rng.normal(0, 25, hu.shape)).astype(np.int16) for hu in head.pixels]
    assert any(each.startswith("Noise of 2") for each in judge(head.scan, noisy, 5.0).warnings)
    shifted = [(hu + 20).astype(np.int16) for hu in head.pixels]
    assert any("HU on average" in each for each in judge(head.scan, shifted, 5.0).warnings)


def test_a_scan_warns_where_more_slices_are_far_than_in_series_that_were_tested() -> None:
    limits = DistanceLimits(Network("se_resnext50_32x4d", 0, 3, "", ""), slices=2.0, series=0.1)
    distances = np.full(20, 1.9)
    distances[:2] = 2.1
    assert warn_of_distance(distances, limits) == []
    distances[2] = np.inf
    (warning,) = warn_of_distance(distances, limits)
    assert warning.startswith("3 of 20 slices are unlike the detector's training data")
    (warning,) = warn_of_distance(np.array([3.0]), limits)
    assert warning.startswith("1 of 1 slice is unlike")
