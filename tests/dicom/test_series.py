import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.dicom import find_series, read_hounsfield


def test_a_real_head_ct_is_one_series_in_order_along_the_normal(real_head_ct: Path) -> None:
    (series,), passed_over = find_series([real_head_ct])
    assert [each.path.name for each in passed_over] == ["LICENSE"]
    assert len(series) == 28
    gaps = np.diff(series.z)
    assert {round(float(gap), 1) for gap in gaps} == {1.1, 4.0, 7.0}  # of the planes, with the gantry's tilt
    # file names count the slices from one end to the other
    names = [path.name for path in sorted(real_head_ct.glob("*.dcm"))]
    hu = {name: np.rint(np.clip(read_hounsfield(real_head_ct / name), -200, 300)) for name in names}
    order = names if (series.pixels[0] == hu[names[0]]).all() else names[::-1]
    for pixels, name in zip(series.pixels, order, strict=True):
        np.testing.assert_array_equal(pixels, hu[name])
    shuffled = np.random.default_rng(0).permutation(sorted(real_head_ct.glob("*.dcm")))
    (again,), _ = find_series(shuffled)
    assert again.ids == series.ids


@pytest.fixture
def three(ct: Path, change: Callable[..., None], tmp_path: Path) -> list[Path]:
    """Three slices of a series, not in order."""
    paths = []
    for name, z in (("b", 10.0), ("a", 0.0), ("c", 5.0)):
        path = Path(shutil.copy(ct, tmp_path / f"{name}.dcm"))
        change(path, SOPInstanceUID=f"1.2.{name == 'a'}.{z:.0f}".replace("True", "1").replace("False", "0"))
        change(path, ImagePositionPatient=[0, 0, z], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        paths.append(path)
    return paths


def test_what_is_no_slice_is_passed_over_with_its_reason(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM")
    copy = shutil.copy(three[0], tmp_path / "copy.dcm")
    (series,), passed_over = find_series([*three, Path(copy), tmp_path / "notes.txt", tmp_path / "missing.dcm"])
    assert series.z.tolist() == [0, 5, 10]
    assert [(each.path.name, each.reason) for each in passed_over] == [
        ("copy.dcm", "duplicate"),
        ("notes.txt", "not_dicom"),
        ("missing.dcm", "missing_file"),
    ]


def test_other_orientations_and_other_series_stand_apart(three: list[Path], change: Callable[..., None]) -> None:
    change(three[1], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])  # a scout within the series
    series, _ = find_series(three)
    assert [each.ids for each in series] == [["1.2.0.5", "1.2.0.10"], ["1.2.1.0"]]
    change(three[0], SeriesInstanceUID="1.2.3")
    assert [len(each) for each in find_series(three)[0]] == [1, 1, 1]


def test_slices_without_a_position_come_last(three: list[Path], change: Callable[..., None]) -> None:
    change(three[1], ImagePositionPatient=None)
    (series,), _ = find_series(three)
    assert series.ids == ["1.2.0.5", "1.2.0.10", "1.2.1.0"]
    assert np.isnan(series.z[2])


def test_folders_are_searched_at_any_depth(three: list[Path], tmp_path: Path) -> None:
    deep = tmp_path / "disk" / "DICOM" / "0001"
    deep.mkdir(parents=True)
    for path in three:
        shutil.move(path, deep)
    assert [len(each) for each in find_series([str(tmp_path / "disk")])[0]] == [3]
    assert find_series([tmp_path / "nothing"])[0] == []


def test_nearly_parallel_slices_are_one_series(three: list[Path], change: Callable[..., None]) -> None:
    # scanners write the same orientation with other last digits
    change(three[1], ImageOrientationPatient=[1, 0, 0, 0, 0.99998, 0.005])
    assert [len(each) for each in find_series(three)[0]] == [3]
