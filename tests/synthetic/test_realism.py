"""Hard heads beside the one real head CT, by the measures of `src.synthetic.realism`. docs/hard.md has the figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from src.errors import UserError
from src.synthetic import realism
from src.synthetic.easy.scan import Scan as EasyScan
from src.synthetic.plan import make_plan
from src.synthetic.realism import Texture, generate_series, measure, of_cerebrum, read_series

PATIENTS = 5


def differences(real: Texture, others: list[Texture]) -> dict[str, float]:
    """How far the medians are from the real one, each as a multiple of what is still alike: 1 is the limit."""

    def middle(name: str) -> np.ndarray:
        return np.median([getattr(each, name) for each in others], axis=0)

    return {
        "densities": float(np.abs(middle("hu") - real.hu)[1:].max() / 9.0),  # HU
        "noise": float(abs(np.log(middle("noise_hu") / real.noise_hu)) / np.log(1.35)),
        "spectrum": float(np.abs(middle("spectrum") - real.spectrum).sum() / 2 / 0.15),  # power in other bands
        "gradients": float(np.abs(np.log(middle("gradients") / real.gradients)).max() / np.log(1.35)),
        "neighbours": float(abs(middle("correlation") - real.correlation) / 0.2),
    }


@pytest.fixture(scope="module")
def real(real_head_ct: Path) -> Texture:
    series, pixel_mm = read_series(real_head_ct)
    assert len(series) == 28
    assert pixel_mm == pytest.approx(0.488, abs=0.001)
    return measure(of_cerebrum(series), pixel_mm)


def test_hard_heads_are_like_the_real_one_in_every_measure(real: Texture):
    others = [measure(of_cerebrum(series), mm) for series, mm in map(generate_series, range(PATIENTS))]
    found = differences(real, others)
    assert max(found.values()) < 1, found
    assert 2 < min(each.noise_hu for each in others) < max(each.noise_hu for each in others) < 8, "and differ"


def test_easy_heads_are_not(real: Texture):
    plan = make_plan(patients=8, slices=30, size=512, seed=0)
    study = next(study for study in plan.studies if not study.bleeds)
    scan = EasyScan.of(replace(study, encoding="16-bit signed without intercept"), 0)
    chosen = of_cerebrum(range(len(study.slice_ids)))
    series = [scan.slice(index).stored.astype(np.float32) for index in chosen]
    pixel_mm = scan.slice(0).header.pixel_mm
    found = differences(real, [measure(series, pixel_mm)])
    assert sum(value > 1 for value in found.values()) >= 2, found


def phantom(noise_hu: float, shared_hu: float) -> list[np.ndarray]:
    """Three slices of a skull full of white noise, and of a smooth field that is the same in all of them."""
    rng = np.random.default_rng(0)
    axis = np.arange(512) - 255.5
    radius = np.hypot(axis[None], axis[:, None]) * 0.5
    shared = ndimage.gaussian_filter(rng.standard_normal((512, 512)), 8)
    bone = np.where(radius < 80, 1000.0, -1000.0)
    brains = [30 + shared_hu * shared / shared.std() + noise_hu * rng.standard_normal(bone.shape) for _ in range(3)]
    return [np.where(radius < 72, brain, bone).astype(np.float32) for brain in brains]


def test_the_measures_are_what_they_say():
    white, uneven = measure(phantom(3.0, 0.0), 0.5), measure(phantom(3.0, 4.0), 0.5)
    assert white.hu[3] == pytest.approx(30, abs=1)
    assert white.noise_hu == pytest.approx(3.0, rel=0.1), "little of white noise is smooth"
    # white noise has its power where there are most frequencies
    area = np.diff(realism.FREQUENCIES**2)
    np.testing.assert_allclose(white.spectrum, area / area.sum(), atol=0.05)
    assert uneven.correlation > 0.9 > 0.2 > abs(white.correlation), "what is smooth is the same in all"
    louder = measure(phantom(6.0, 0.0), 0.5)
    assert louder.noise_hu == pytest.approx(6.0, rel=0.1)
    np.testing.assert_allclose(louder.gradients, 2 * white.gradients, rtol=0.05)


def test_a_series_without_a_brain_is_not_measured():
    with pytest.raises(ValueError, match="two slices with a brain"):
        measure([np.full((128, 128), -1000.0, dtype=np.float32)] * 3, 0.5)


def test_an_empty_folder_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no \.dcm files"):
        read_series(tmp_path)
