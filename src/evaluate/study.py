"""Combine slices into studies, to evaluate whether a head has a bleed and of which subtypes."""

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
        """The number of patients of these cases."""
        return int(self.patients.max()) + 1


def to_studies(slices: Cases, studies: np.ndarray) -> Cases:
    """Combine slices into studies, each with the maximum over its slices of targets and of probabilities.

    studies: (N,), as integers. A study has a label if any of its slices has it, so the slice that shows it most clearly
    decides. The maximum ranks studies well but is not calibrated: the largest of forty slightly noisy probabilities is
    too large.

    Slices of different patients are never combined, whatever their headers say, because all slices without a
    StudyInstanceUID have the same empty one.
    """
    order = np.lexsort((studies, slices.patients))
    patients, ordered = slices.patients[order], studies[order]
    starts = np.flatnonzero(np.append(True, (np.diff(patients) != 0) | (np.diff(ordered) != 0)))
    return Cases(
        np.maximum.reduceat(slices.targets[order], starts),
        np.maximum.reduceat(slices.probabilities[order], starts),
        patients[starts],
        slices.folds[order][starts],  # a patient is in one fold only: src/preprocess/make_folds.py
    )
