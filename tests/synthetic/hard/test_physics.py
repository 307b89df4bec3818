"""What the scanner adds, against what physics says."""

from dataclasses import replace

import numpy as np
import pytest

from src.synthetic.hard.physics import METAL_HU, Scanner

PIXEL_MM = 0.5
QUIET = Scanner(
    psf_mm=0.4, edge=0.0, noise_hu=1e-6, grain_per_mm=0.15, glare=0.0, hardening=0.0, cupping_hu=0.0, motion=0.0
)


def disc(radius_mm: float, centre: tuple[float, float] = (0.0, 0.0), size: int = 512) -> np.ndarray:
    axis = (np.arange(size) - (size - 1) / 2) * PIXEL_MM
    return np.hypot(axis[None] - centre[0], axis[:, None] - centre[1]) < radius_mm


def head(hu: float = 35.0, skull: float = 1000.0) -> np.ndarray:
    image = np.full((512, 512), -1000.0, dtype=np.float32)
    image[disc(80.0)] = skull
    image[disc(73.0)] = hu
    return image


def taken(scanner: Scanner, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return scanner.take(image, PIXEL_MM, np.random.default_rng(seed))


def test_a_scanner_that_adds_nothing_but_sharpness_keeps_densities():
    image = taken(QUIET, head())
    assert image[disc(60.0)] == pytest.approx(35.0, abs=0.01)
    assert image[disc(79) & ~disc(75)].mean() == pytest.approx(1000, rel=0.02)


def test_an_edge_is_spread_by_the_point_spread():
    step = np.full((512, 512), 0.0, dtype=np.float32)
    step[:, 256:] = 100.0
    for psf in (0.4, 0.9):
        profile = taken(replace(QUIET, psf_mm=psf), step)[256]
        slope = np.diff(profile)
        middle = np.average(np.arange(slope.size), weights=slope.clip(0))
        spread = np.sqrt(np.average((np.arange(slope.size) - middle) ** 2, weights=slope.clip(0))) * PIXEL_MM
        assert spread == pytest.approx(psf, rel=0.1)


@pytest.mark.parametrize("noise", [2.0, 5.0, 8.0])
def test_noise_has_its_strength_in_the_middle_and_less_at_the_rim(noise):
    difference = taken(replace(QUIET, noise_hu=noise), head()) - taken(QUIET, head())
    middle, rim = difference[disc(15)].std(), difference[disc(72) & ~disc(66)].std()
    assert middle == pytest.approx(noise, rel=0.25)
    assert rim < 0.92 * middle
    assert abs(difference[disc(70)].mean()) < 0.1 * noise


def test_noise_is_more_behind_bone():
    image = head()
    for side in (-1, 1):
        image[disc(20, (side * 45.0, 0.0))] = 1800.0
    quiet = taken(QUIET, image)
    noise = np.stack([taken(replace(QUIET, noise_hu=4.0), image, seed) - quiet for seed in range(8)])
    assert noise[:, disc(10)].std() > 1.1 * noise[:, disc(10, (0.0, 50.0))].std()


def test_noise_has_the_spectrum_of_a_ramp_under_a_soft_kernel():
    scanner = replace(QUIET, noise_hu=4.0)
    noise = taken(scanner, head()) - taken(QUIET, head())
    square = noise[192:320, 192:320] * (np.hanning(128)[:, None] * np.hanning(128))
    power = np.abs(np.fft.fft2(square)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128, PIXEL_MM)] * 2))
    rings = [power[(frequency >= low) & (frequency < low + 0.04)].mean() for low in np.arange(0.02, 0.9, 0.04)]
    peak = int(np.argmax(rings))
    assert 0.06 < 0.02 + 0.04 * peak < 0.3, "little at low frequencies, and the kernel ends it"
    assert rings[-1] < 0.05 * rings[peak]
    coarse = taken(replace(scanner, grain_per_mm=0.08), head()) - taken(QUIET, head())
    assert np.abs(np.diff(coarse)).mean() < np.abs(np.diff(noise)).mean()


def test_beam_hardening_darkens_what_lies_between_dense_bones():
    image = head()
    for side in (-1, 1):
        image[disc(14, (side * 40.0, 10.0))] = 1400.0
    error = taken(replace(QUIET, hardening=12.0), image) - taken(QUIET, image)
    between, beside = error[disc(8, (0.0, 10.0))].mean(), error[disc(8, (0.0, -40.0))].mean()
    assert between < beside - 2
    twice = taken(replace(QUIET, hardening=24.0), image) - taken(QUIET, image)
    assert twice[disc(8, (0.0, 10.0))].mean() == pytest.approx(2 * between, rel=0.05)


def test_metal_draws_streaks_and_bone_does_not():
    unevenness = {}
    for name, hu in (("bone", 1400.0), ("metal", METAL_HU)):
        image = head()
        image[disc(3.0, (20.0, 10.0))] = hu
        error = taken(replace(QUIET, hardening=12.0), image) - taken(QUIET, image)
        ring = disc(24.0, (20.0, 10.0)) & ~disc(18.0, (20.0, 10.0))
        unevenness[name] = error[ring].std()
        assert taken(QUIET, image).max() <= 3071
    assert unevenness["metal"] > 5 * unevenness["bone"]


def test_glare_brightens_brain_at_the_skull():
    glow = taken(replace(QUIET, glare=1.0), head()) - taken(QUIET, head())
    assert glow[disc(72) & ~disc(71)].mean() > 2 * glow[disc(66) & ~disc(65)].mean() > 2 * glow[disc(20)].mean()


def test_a_slice_that_moved_is_blurred_and_one_that_did_not_is_not():
    still, moved = taken(replace(QUIET, motion=0.0), head()), taken(replace(QUIET, motion=1.0), head())
    assert np.abs(np.diff(moved, axis=0)).max() < np.abs(np.diff(still, axis=0)).max() - 50


def test_the_same_generator_gives_the_same_slice():
    scanner = Scanner.draw(np.random.default_rng(3))
    np.testing.assert_array_equal(taken(scanner, head(), 1), taken(scanner, head(), 1))
    assert (taken(scanner, head(), 1) != taken(scanner, head(), 2)).mean() > 0.99
