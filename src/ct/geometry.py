"""Geometry of slices: position along the normal, and gantry tilt. Patient coordinates are in mm.

Source: DICOM PS3.3 C.7.6.2.1.1 (Image Position and Image Orientation).
"""

import numpy as np

PARALLEL_DEGREES = 1.0  # normals that are closer than this are of parallel planes


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


def parallel_groups(orientations: np.ndarray) -> np.ndarray:
    """Which slices of a series are parallel: (N, 6) direction cosines -> (N,) integers, 0 for the largest group.

    A series in the sense of this project has parallel planes, with normals that point the same way: a localizer that
    shares a SeriesInstanceUID with axial slices is a group by itself. Slices of unknown orientation are in group 0.
    """
    normals = np.round(slice_normals(orientations), 4)  # equal ones are compared once
    known = np.flatnonzero(np.isfinite(normals).all(axis=1))
    groups = np.zeros(len(normals), dtype=np.int64)
    if not len(known) or (normals[known] == normals[known[0]]).all():
        return groups
    unique, inverse, counts = np.unique(normals[known], axis=0, return_inverse=True, return_counts=True)
    parallel = unique @ unique.T > np.cos(np.radians(PARALLEL_DEGREES))
    group_of = np.full(len(unique), -1)
    number = 0
    for first in np.argsort(-counts, kind="stable"):
        if group_of[first] < 0:
            group_of[parallel[first] & (group_of < 0)] = number
            number += 1
    sizes = np.bincount(group_of, weights=counts)
    rank = np.empty(number, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(number)
    groups[known] = rank[group_of[inverse.ravel()]]
    return groups


def sides_of(orientation: np.ndarray) -> str:
    """What lies left, right, top and bottom of an image: (6,) direction cosines -> such as "RLAP", or "" if unknown.

    R and L, A and P, F and H: the patient's right and left, front and back, feet and head (PS3.3 C.7.6.1.1.1).
    """
    if not np.isfinite(orientation).all() or not np.isfinite(slice_normals(orientation[None])).all():
        return ""
    names = []
    for along in (orientation[:3], orientation[3:]):
        axis = int(np.argmax(np.abs(along)))
        towards = "LPH"[axis] if along[axis] > 0 else "RAF"[axis]
        away = "RAF"[axis] if along[axis] > 0 else "LPH"[axis]
        names += [away, towards]
    return "".join(names)


def gantry_tilt(positions: np.ndarray, orientation: np.ndarray) -> float:
    """Angle in degrees between the slices' normal and the line along which the table moved.

    positions: (N, 3) mm of one series, N at least 2; orientation: (6,). 0 for an untilted series.
    """
    first_to_last = positions[np.argmax(positions[:, 2])] - positions[np.argmin(positions[:, 2])]
    travel = first_to_last / np.linalg.norm(first_to_last)
    cosine = abs(float(travel @ slice_normals(orientation[None])[0]))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))
