"""The effects of a scanner: limited sharpness, noise, beam hardening, metal streaks and motion.

Beam hardening and the noise level are computed from projections of the section, as in a scanner (Kak and Slaney,
Principles of Computerized Tomographic Imaging, 1988, chapters 3 and 4). A coarse grid suffices, since both are smooth.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from scipy import fft, sparse

from src.synthetic.hard.atlas import Image

COARSE = 96  # pixels along each side of the coarse grid
ANGLES = 90
WATER_PER_MM = 0.0195  # attenuation at the mean energy of a 120 kV beam (70 keV)
GLARE = ((0.075, 2.3), (0.03, 8.0))  # fraction of bone's HU, mm of standard deviation; fitted to docs/hard.md's scan
GLARE_PIXELS = 2  # glare is computed on squares with sides of this many pixels
BONE_FROM_HU = 150.0
METAL_HU, HIGHEST_HU = 20000.0, 3071.0  # the HU of metal, and the largest that scanners store
STARVED_CM = 5.0  # of bone; beyond it the loss along a ray grows linearly, no longer with the square of the path
STREAK = 12.0  # standard deviation of a ray's loss, in cm^2 for each cm beyond that


@dataclass(frozen=True)
class Scanner:
    """The image quality of one scan."""

    psf_mm: float  # standard deviation of the point spread
    edge: float  # strength of the kernel's edge enhancement
    noise_hu: float  # standard deviation in the middle of the brain
    grain_per_mm: float  # frequency over which the noise power falls to 1/e beyond its peak
    glare: float  # scales GLARE, the HU that bone adds within several mm around it
    hardening: float  # HU cm, factor of the lost absorption, which is in cm^2 of bone
    cupping_hu: float  # by how much the middle is darker than the rim
    motion: float  # 0..1: probability that a slice is blurred

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scanner":
        """Draw a random scanner with a head protocol: 4..7 mm slices, soft-tissue kernel."""
        return cls(
            psf_mm=float(rng.uniform(0.3, 0.44)),
            edge=float(rng.uniform(0.0, 0.06)),
            noise_hu=float(np.clip(np.exp(rng.normal(np.log(3.7), 0.26)), 2.0, 8.0)),
            grain_per_mm=float(rng.uniform(0.13, 0.28)),
            glare=float(rng.uniform(0.5, 1.2)),
            hardening=float(rng.uniform(8.0, 22.0)),
            cupping_hu=float(rng.uniform(0.0, 2.5)),
            motion=float(rng.choice([0.0, 0.0, 0.0, 0.3])),
        )

    def take(self, hu: Image, pixel_mm: float, rng: np.random.Generator) -> Image:
        """Image a section. hu: (rows, columns) without noise, both numbers even. Returns HU."""
        hu = self._blur(hu, pixel_mm, rng)
        error, noise = self._projected(hu, pixel_mm, rng)
        return np.minimum(hu + error + noise * self._noise(hu.shape, pixel_mm, rng), np.float32(HIGHEST_HU))

    def _blur(self, hu: Image, pixel_mm: float, rng: np.random.Generator) -> Image:
        if self.motion and rng.random() < self.motion:
            # the head moved during one rotation, so two positions are superimposed
            turn = cv2.getRotationMatrix2D((hu.shape[1] / 2, hu.shape[0] / 2), rng.normal(0, 1.2), 1.0)
            turn = turn + np.stack([np.zeros(2), np.zeros(2), rng.normal(0, 1.5 / pixel_mm, 2)], axis=1)
            moved = cv2.warpAffine(hu, turn, hu.shape[::-1], borderValue=-1000.0)
            hu = 0.6 * hu + 0.4 * np.asarray(moved, dtype=np.float32)
        sharp = cv2.GaussianBlur(hu, (0, 0), self.psf_mm / pixel_mm)
        if self.edge:
            sharp = cv2.addWeighted(
                sharp, 1 + self.edge, cv2.GaussianBlur(sharp, (0, 0), 1.4 / pixel_mm), -self.edge, 0
            )
        return np.asarray(sharp, dtype=np.float32) + self.glare * _glare(hu, pixel_mm)

    def _projected(self, hu: Image, pixel_mm: float, rng: np.random.Generator) -> tuple[Image, Image]:
        """Compute from projections the error of beam hardening and the standard deviation of noise, both in HU."""
        side = max(hu.shape)
        step_mm = side * pixel_mm / COARSE
        square = cv2.copyMakeBorder(hu, 0, side - hu.shape[0], 0, side - hu.shape[1], cv2.BORDER_CONSTANT, value=-1000)
        coarse = np.asarray(cv2.resize(square, (COARSE, COARSE), interpolation=cv2.INTER_AREA), dtype=np.float32)
        project = _projector()
        dense = np.clip(coarse - BONE_FROM_HU, 0, None).ravel() * np.float32(1 / 1000)
        bone_cm = (project @ dense) * np.float32(step_mm / 10)
        # a ray hardens in bone: absorption falls short of the sum by about the square of the path
        lost = -(bone_cm**2) / (1.0 + bone_cm / STARVED_CM)
        # few photons pass through metal, so these rays are random and cause streaks
        lost += STREAK * np.clip(bone_cm - STARVED_CM, 0.0, None) * rng.standard_normal(lost.shape, dtype=np.float32)
        lost = lost.reshape(ANGLES, -1)
        lost -= lost.mean(axis=1, keepdims=True)
        seen = (project.T @ _ramp(lost).ravel()).reshape(COARSE, COARSE)
        error = self.hardening * np.float32(10 / step_mm) * seen
        inside = coarse > -500
        if inside.any():
            error -= np.median(error[inside])
        total = (project @ np.clip(coarse * np.float32(1e-3) + 1, 0, None).ravel()) * np.float32(WATER_PER_MM * step_mm)
        # the variance of a ray is as 1 / photons (Poisson); filters in front of the patient partly even it out
        variance = (project.T @ np.exp(0.55 * total)).reshape(COARSE, COARSE)
        noise = np.sqrt(variance / np.percentile(variance, 98))
        grid = np.linspace(-1, 1, COARSE, dtype=np.float32)
        rim = np.minimum(grid[:, None] ** 2 + grid**2, 1.0) / 0.35 - 0.5
        error += np.where(inside, self.cupping_hu * rim.clip(-0.5, 1.0), 0.0)
        smooth = np.stack([cv2.GaussianBlur(error, (0, 0), 0.8), self.noise_hu * noise.clip(0.45, 1.3)], axis=-1)
        fine = cv2.resize(smooth, (side, side), interpolation=cv2.INTER_CUBIC)[: hu.shape[0], : hu.shape[1]]
        body = np.clip((hu + 700) * np.float32(1 / 400), 0.0, 1.0)  # air is left unchanged
        return np.asarray(fine[..., 0] * body), np.asarray(fine[..., 1])

    def _noise(self, shape: tuple[int, ...], pixel_mm: float, rng: np.random.Generator) -> Image:
        """Draw noise of unit variance with the spectrum of a ramp filter and a soft kernel (Riederer et al., 1978)."""
        rows, columns = shape[0], shape[1]
        weight = _spectrum(rows, columns, pixel_mm, self.grain_per_mm)
        parts = rng.standard_normal((2, *weight.shape), dtype=np.float32)
        return fft.irfft2((parts[0] + 1j * parts[1]) * weight, s=(rows, columns))


def _glare(hu: Image, pixel_mm: float) -> Image:
    """Return the HU that bone adds around itself: scattered and off-focal radiation, tails of the point spread."""
    size = (hu.shape[1] // GLARE_PIXELS, hu.shape[0] // GLARE_PIXELS)
    dense = cv2.resize(np.clip(hu - BONE_FROM_HU, 0.0, 1500.0), size, interpolation=cv2.INTER_AREA)
    spread = sum(fraction * cv2.GaussianBlur(dense, (0, 0), mm / (GLARE_PIXELS * pixel_mm)) for fraction, mm in GLARE)
    return np.asarray(cv2.resize(spread, hu.shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


@lru_cache(maxsize=4)  # enough for one study; memory must not grow with the number of studies
def _spectrum(rows: int, columns: int, pixel_mm: float, grain_per_mm: float) -> Image:
    """Return amplitudes for `irfft2` that give noise of unit variance."""
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(rows, pixel_mm), fft.rfftfreq(columns, pixel_mm), indexing="ij"))
    power = (frequency + 0.012) * np.exp(-frequency / grain_per_mm)
    power[0, 0] = 0.0
    both = np.full(power.shape[1], 2.0)  # all columns except the first and last represent two frequencies
    both[[0, -1]] = 1.0
    return np.sqrt(power / (2 * (power * both).sum()) * (rows * columns) ** 2).astype(np.float32)


def _ramp(views: Image) -> Image:
    """Filter projections (angles, detectors) for backprojection."""
    length = 2 * views.shape[1]
    filtered = fft.irfft(fft.rfft(views, length) * fft.rfftfreq(length).astype(np.float32), length)
    return filtered[:, : views.shape[1]] * np.float32(np.pi / ANGLES)


@cache
def _projector() -> sparse.csr_array:
    """Return parallel projection as a matrix: (angles * detectors, pixels of the coarse grid), lengths in pixels."""
    detectors = int(np.ceil(COARSE * np.sqrt(2))) + 2
    middle = (COARSE - 1) / 2
    y, x = np.meshgrid(np.arange(COARSE) - middle, np.arange(COARSE) - middle, indexing="ij")
    rows, columns, values = [], [], []
    for view in range(ANGLES):
        angle = np.pi * view / ANGLES
        position = (x * np.cos(angle) + y * np.sin(angle)).ravel() + (detectors - 1) / 2
        lower = np.floor(position).astype(int)
        for detector, fraction in ((lower, 1 - (position - lower)), (lower + 1, position - lower)):
            rows.append(view * detectors + detector)
            columns.append(np.arange(COARSE**2))
            values.append(fraction)
    shape = (ANGLES * detectors, COARSE**2)
    triples = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(sparse.coo_array(triples, shape=shape), dtype=np.float32)
