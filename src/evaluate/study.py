"""From slices to studies: does this head bleed, and where it does, of which kind?"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cases:
    """N slices or N studies: targets (N, 6) of 0 and 1, probabilities (N, 6), patients (N,) and folds (N,) as integers.

    The patients are numbered from 0 without gaps.
    """

    targets: np.ndarray
    probabilities: np.ndarray
    patients: np.ndarray
    folds: np.ndarray

    @property
    def n_patients(self) -> int:
        """How many patients they are of."""
        return int(self.patients.max()) + 1


def to_studies(slices: Cases, studies: np.ndarray) -> Cases:
    """The studies of some slices, each with the maximum over its slices of targets and of probabilities.

    studies: (N,), as integers. A study has a label where any slice has it, so what speaks for it is the slice that
    shows it most clearly. The maximum ranks studies well; it is not calibrated: the largest of forty slightly noisy
    probabilities is too large.

    Slices of different patients are never of one study, whatever the headers say: those without a StudyInstanceUID
    share an empty one.
    """
    order = np.lexsort((studies, slices.patients))
    patients, ordered = slices.patients[order], studies[order]
    starts = np.flatnonzero(np.append(True, (np.diff(patients) != 0) | (np.diff(ordered) != 0)))
    return Cases(
        np.maximum.reduceat(slices.targets[order], starts),
        np.maximum.reduceat(slices.probabilities[order], starts),
        patients[starts],
        slices.folds[order][starts],  # a patient is in one fold: src/preprocess/make_folds.py
    )
