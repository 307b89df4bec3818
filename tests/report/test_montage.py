from pathlib import Path

import numpy as np
import pytest

from src.ct.windows import apply_windows
from src.dicom import UnreadableDicom, read_hounsfield
from src.errors import UserError
from src.report.montage import montage


@pytest.fixture
def paths(competition: Path) -> list[Path]:
    readable = []
    for path in sorted((competition / "input/stage_2_train").glob("*.dcm")):
        try:
            if read_hounsfield(path).shape == (64, 64):
                readable.append(path)
        except UnreadableDicom:
            continue
    return readable[:3]


def test_tiles_are_the_windows(paths: list[Path]) -> None:
    picture = montage(paths, ["brain", "all"], size=64, columns=2)
    assert picture.shape == (4 * 64, 2 * 64, 3)  # two rows for each view
    windows = apply_windows(read_hounsfield(paths[1]))
    brain = np.rint(windows[..., 0] * 255)
    for channel in range(3):
        np.testing.assert_array_equal(picture[:64, 64:, channel], brain)
    np.testing.assert_array_equal(picture[128:192, 64:, ::-1], np.rint(windows * 255))
    assert not picture[64:128, 64:].any()  # the place of a fourth slice stays black


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 1 files is a readable slice: .*none.dcm \(missing_file"):
        montage([tmp_path / "none.dcm"], ["all"], 64, 1)


def test_one_unreadable_file_of_some_costs_its_tile(paths: list[Path], tmp_path: Path, capsys) -> None:
    picture = montage([paths[0], tmp_path / "none.dcm", paths[1]], ["brain"], size=64, columns=3)
    assert not picture[:, 64:128].any()
    assert picture[:, :64].any()
    assert picture[:, 128:].any()
    assert f"left black: {tmp_path / 'none.dcm'} (missing_file: no such file)" in capsys.readouterr().err
