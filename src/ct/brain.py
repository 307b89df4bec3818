"""How much brain a slice shows."""

import numpy as np

BRAIN_RANGE = (0, 80)  # HU: CSF, white and grey matter, blood; the span of the brain window


def brain_share(hu: np.ndarray) -> float:
    """Share of a slice's pixels whose HU are those of brain, CSF or blood: (rows, columns) HU -> [0, 1].

    hu: as the image store keeps it. A constant slice shows nothing, so its share is 0 whatever its value.
    """
    if hu.min() == hu.max():
        return 0.0
    low, high = BRAIN_RANGE
    return float(np.count_nonzero((hu > low) & (hu <= high)) / hu.size)
