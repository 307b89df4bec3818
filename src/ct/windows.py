"""The three windows through which a radiologist looks for blood on a head CT."""

from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """A display window: `[level - width / 2, level + width / 2]` HU is shown from black to white."""

    level: float
    width: float


THREE_WINDOWS = (
    Window(level=40, width=80),  # brain
    Window(level=80, width=200),  # blood/subdural
    Window(level=40, width=380),  # soft tissue
)


def apply_windows(hu: np.ndarray, windows: tuple[Window, ...] = THREE_WINDOWS) -> np.ndarray:
    """Apply each window to HU: (...) HU -> (..., len(windows)) float32 in [0, 1], 0 black and 1 white."""
    low = np.array([level - width / 2 for level, width in windows], dtype=np.float32)
    width = np.array([window.width for window in windows], dtype=np.float32)
    return np.clip((np.asarray(hu, dtype=np.float32)[..., None] - low) / width, 0, 1)
