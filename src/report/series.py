"""The geometry of series, from the tables of headers."""

import numpy as np
import pandas as pd

from src.ct.geometry import gantry_tilt

_PLACE = [f"position_{axis}" for axis in "xyz"]
_ORIENTATION = [f"{side}_cosine_{axis}" for side in ("row", "column") for axis in "xyz"]


def series_table(headers: pd.DataFrame) -> pd.DataFrame:
    """A row for each series of a table of headers.

    Columns: `SeriesInstanceUID`, `slices`, `length_mm`, `gap_mm` (median), `largest_gap_mm`, `tilt_degrees`; NaN where
    positions are not known or a series has one slice.
    """
    usable = headers[headers["reason"] == ""].sort_values(["SeriesInstanceUID", "z"])
    grouped = usable.groupby("SeriesInstanceUID", sort=True)
    gap = grouped["z"].diff()
    gaps = gap.where(gap > 0).groupby(usable["SeriesInstanceUID"])
    frame = pd.DataFrame(
        {
            "slices": grouped.size(),
            "length_mm": grouped["z"].max() - grouped["z"].min(),
            "gap_mm": gaps.median(),
            "largest_gap_mm": gaps.max(),
        }
    )
    frame["tilt_degrees"] = np.nan
    if {*_PLACE, *_ORIENTATION} <= {*usable.columns}:
        ends = np.stack([grouped.nth(i)[_PLACE].to_numpy(dtype=float) for i in (0, -1)], axis=1)  # (S, 2, 3) mm
        orientations = grouped.nth(0)[_ORIENTATION].to_numpy(dtype=float)
        frame["tilt_degrees"] = [_tilt(*each) for each in zip(ends, orientations, strict=True)]
    return frame.reset_index(names="SeriesInstanceUID")


def _tilt(ends: np.ndarray, orientation: np.ndarray) -> float:
    """The gantry's tilt in degrees: positions of the outer slices (2, 3) mm, (6,); NaN where they do not tell."""
    if not np.isfinite(ends).all() or not np.isfinite(orientation).all() or not np.ptp(ends[:, 2]):
        return np.nan
    return gantry_tilt(ends, orientation)
