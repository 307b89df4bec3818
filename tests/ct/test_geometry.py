from pathlib import Path

import numpy as np
import pytest

from src.ct.geometry import gantry_tilt, parallel_groups, positions_along_normal, sides_of, slice_normals
from src.ct.series import slice_gaps
from src.dicom import read_header

AXIAL = [1, 0, 0, 0, 1, 0]


def _tilted(degrees: float) -> list[float]:
    angle = np.radians(degrees)
    return [1, 0, 0, 0, np.cos(angle), -np.sin(angle)]


def test_normals() -> None:
    normals = slice_normals(np.array([AXIAL, _tilted(30), [1, 0, 0, 1, 0, 0]], dtype=float))
    np.testing.assert_allclose(normals[0], [0, 0, 1])
    np.testing.assert_allclose(normals[1], [0, 0.5, np.sqrt(3) / 2])
    assert np.isnan(normals[2]).all()  # rows and columns that are parallel span no plane


def test_order_is_along_the_normal_not_in_the_list() -> None:
    positions = np.array([[-100, -100, 15], [-100, -100, 0], [-100, -100, 5]], dtype=float)
    z = positions_along_normal(positions, np.array([AXIAL] * 3, dtype=float))
    assert z.tolist() == [15, 0, 5]
    assert slice_gaps(z).tolist() == [5, 10]


def test_moving_within_the_plane_changes_nothing() -> None:
    orientation = np.array([_tilted(20)] * 2)
    along_rows_and_columns = 7 * orientation[0, :3] - 3 * orientation[0, 3:]
    z = positions_along_normal(np.array([(1, 2, 3), np.add((1, 2, 3), along_rows_and_columns)]), orientation)
    assert z[0] == pytest.approx(z[1])


def test_tilt() -> None:
    positions = np.array([[0, 0, 0], [0, 0, 5], [0, 0, 10]], dtype=float)
    assert gantry_tilt(positions, np.array(AXIAL, dtype=float)) == pytest.approx(0)
    assert gantry_tilt(positions, np.array(_tilted(-18.5))) == pytest.approx(18.5)


def test_the_real_head_ct(real_head_ct: Path) -> None:
    headers = [read_header(path) for path in sorted(real_head_ct.glob("*.dcm"))]
    positions = np.array([header.position for header in headers])
    orientations = np.array([header.orientation for header in headers])
    assert gantry_tilt(positions, orientations[0]) == pytest.approx(18.5, abs=0.01)  # its tag (0018,1120)
    table_steps = slice_gaps(positions[:, 2])
    assert set(table_steps.round(2)) == {1.14, 4.22, 7.38}
    gaps = slice_gaps(positions_along_normal(positions, orientations))
    np.testing.assert_allclose(gaps, table_steps * np.cos(np.radians(18.5)), atol=1e-3)  # planes are closer than steps


def test_parallel_groups() -> None:
    axial, tilted = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, np.cos(0.3), -np.sin(0.3)]
    sagittal, upside_down = [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, -1, 0]
    unknown = [np.nan] * 6
    nearly = [1, 0, 0, 0, np.cos(0.001), np.sin(0.001)]
    turned = [0, 1, 0, -1, 0, 0]  # within the plane
    assert parallel_groups(np.array([axial, nearly, turned, unknown])).tolist() == [0, 0, 0, 0]
    found = parallel_groups(
        np.array([sagittal, axial, tilted, tilted, upside_down, axial, axial, unknown], dtype=float)
    )
    assert found.tolist()[1:4] == [0, 1, 1]
    assert found.tolist()[5:] == [0, 0, 0]
    assert sorted([found[0], found[4]]) == [2, 3]
    assert parallel_groups(np.full((3, 6), np.nan)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("orientation", "sides"),
    [
        (AXIAL, "RLAP"),
        ([-1, 0, 0, 0, 1, 0], "LRAP"),  # mirrored
        ([1, 0, 0, 0, -1, 0], "RLPA"),  # prone
        (_tilted(-18.5), "RLAP"),
        ([1, 0, 0, 0, 0, -1], "RLHF"),  # coronal
        ([0, 1, 0, 0, 0, -1], "APHF"),  # sagittal
        ([float("nan")] * 6, ""),
        ([1, 0, 0, 1, 0, 0], ""),  # spans no plane
    ],
)
def test_what_lies_at_each_side_of_an_image(orientation: list[float], sides: str) -> None:
    assert sides_of(np.array(orientation, dtype=float)) == sides
