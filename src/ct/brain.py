"""How much of a slice shows brain."""

import numpy as np

BRAIN_RANGE = (0, 80)  # HU: CSF, white and grey matter, blood; the range of the brain window


def brain_fraction(hu: np.ndarray) -> float:
    """Fraction of a slice's pixels whose HU are those of brain, CSF or blood: (rows, columns) HU -> [0, 1].

    hu: as kept in the image store. A constant slice shows nothing, so its fraction is 0 whatever its value.
    """
    if hu.min() == hu.max():
        return 0.0
    low, high = BRAIN_RANGE
    return float(np.count_nonzero((hu > low) & (hu <= high)) / hu.size)
