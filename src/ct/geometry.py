"""Geometry of slices: position along the normal, and gantry tilt. Patient coordinates are in mm.

Source: DICOM PS3.3 C.7.6.2.1.1 (Image Position and Image Orientation).
"""

import numpy as np


def slice_normals(orientations: np.ndarray) -> np.ndarray:
    """Unit normals of slices: (N, 6) direction cosines of rows and columns -> (N, 3); NaN where they span no plane."""
    normals = np.cross(orientations[:, :3], orientations[:, 3:])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > 1e-6, normals / length, np.nan)


def positions_along_normal(positions: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """Position of each slice along its normal: positions (N, 3) mm, orientations (N, 6) -> (N,) mm.

    They give the order of the slices, independently of file names and instance numbers. Their differences are the gaps
    between slice planes, with gantry tilt too.
    """
    return np.einsum("nk,nk->n", positions, slice_normals(orientations))


def gantry_tilt(positions: np.ndarray, orientation: np.ndarray) -> float:
    """Angle in degrees between the slices' normal and the line along which the table moved.

    positions: (N, 3) mm of one series, N at least 2; orientation: (6,). 0 for an untilted series.
    """
    first_to_last = positions[np.argmax(positions[:, 2])] - positions[np.argmin(positions[:, 2])]
    travel = first_to_last / np.linalg.norm(first_to_last)
    cosine = abs(float(travel @ slice_normals(orientation[None])[0]))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))
