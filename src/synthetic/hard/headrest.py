"""The headrest on which the head lies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.synthetic.hard.atlas import Image

Millimetres = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Headrest:
    """A carbon-fibre trough lined with foam, in the scanner's coordinates (mm)."""

    half_width: float
    depth: float  # of the trough
    gap: float  # between the head and the shell, filled by foam or a sheet
    steepness: float  # exponent of the trough's profile
    shell_mm: float
    shell_hu: float
    foam_hu: float  # that of air if there is no foam
    open_mm: float  # half-width of a gap in the bottom of the shell; 0 for none

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Headrest":
        """Draw a random headrest."""
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
        """Return HU around the head, (rows, columns). head: positions across, and the head's lowest point at each."""
        under = np.abs(head[0]) < self.half_width + self.shell_mm
        touches = (head[1] + self._rise(head[0]))[under].max() + self.gap + self.shell_mm
        y, x = np.meshgrid(down_mm, across_mm, indexing="ij")
        fraction = np.abs(x) / self.half_width
        floor = touches - self._rise(x)  # y of the trough's surface
        slope = self.depth * 0.85 * self.steepness * fraction ** (self.steepness - 1) / self.half_width
        off = (floor - y) / np.hypot(1.0, slope)  # distance above the shell, mm
        within = fraction < 1.0
        shell = np.clip(self.shell_mm + 0.5 - np.abs(off), 0.0, 1.0) * within * (np.abs(x) > self.open_mm)
        foam = np.clip(off / 2.0, 0.0, 1.0) * np.clip((26.0 - off) / 2.0, 0.0, 1.0) * within
        hu = -1000.0 + foam * (self.foam_hu + 1000.0)
        return (hu + shell * (self.shell_hu - hu)).astype(np.float32)

    def _rise(self, x: Millimetres) -> Millimetres:
        """Return the height of the trough above its lowest point, in mm, at a distance x from its middle."""
        return np.asarray(0.85 * self.depth * (np.abs(x) / self.half_width) ** self.steepness)
