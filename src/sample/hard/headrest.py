"""What the head lies on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.sample.hard.atlas import Image

Millimetres = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Headrest:
    """A trough of carbon fibre with foam in it, in the scanner's frame (mm)."""

    half_width: float
    depth: float  # of the trough
    gap: float  # between the head and the shell, which foam fills or a sheet
    steepness: float  # power of the trough's profile
    shell_mm: float
    shell_hu: float
    foam_hu: float  # air where there is no foam
    open_mm: float  # half-width of a gap below, where the picture shows only the two sides; 0 for none

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Headrest":
        """Draw one."""
        return cls(
            half_width=float(rng.uniform(94, 112)),
            depth=float(rng.uniform(70, 110)),
            gap=float(rng.uniform(0, 4)),
            steepness=float(rng.uniform(3.5, 9.0)),
            shell_mm=float(rng.uniform(0.8, 1.6)),
            shell_hu=float(rng.uniform(-150, 350)),
            foam_hu=float(rng.choice([-1000.0, -975.0, -955.0])),
            open_mm=float(rng.choice([0.0, 55.0])),
        )

    def picture(self, down_mm: Millimetres, across_mm: Millimetres, head: tuple[Millimetres, Millimetres]) -> Image:
        """HU around the head, (rows, columns). head: places across, and how far down the head reaches at each."""
        under = np.abs(head[0]) < self.half_width + self.shell_mm
        touches = (head[1] + self._rise(head[0]))[under].max() + self.gap + self.shell_mm
        y, x = np.meshgrid(down_mm, across_mm, indexing="ij")
        share = np.abs(x) / self.half_width
        floor = touches - self._rise(x)  # y of the trough
        slope = self.depth * 0.85 * self.steepness * share ** (self.steepness - 1) / self.half_width
        off = (floor - y) / np.hypot(1.0, slope)  # mm above the shell
        within = share < 1.0
        shell = np.clip(self.shell_mm + 0.5 - np.abs(off), 0.0, 1.0) * within * (np.abs(x) > self.open_mm)
        foam = np.clip(off / 2.0, 0.0, 1.0) * np.clip((26.0 - off) / 2.0, 0.0, 1.0) * within
        hu = -1000.0 + foam * (self.foam_hu + 1000.0)
        return (hu + shell * (self.shell_hu - hu)).astype(np.float32)

    def _rise(self, x: Millimetres) -> Millimetres:
        """By how much the trough is higher at a distance from its middle: mm."""
        return np.asarray(0.85 * self.depth * (np.abs(x) / self.half_width) ** self.steepness)
