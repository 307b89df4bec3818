from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.dicom import read_header, read_hounsfield


def test_header_of_a_competition_file(competition: Path) -> None:
    path = next((competition / "input/stage_2_train").glob("*.dcm"))
    header = read_header(path)
    assert header.PatientID.startswith("ID_")
    assert (header.rows, header.columns)[0] == 64
    assert header.rescale_slope == 1
    assert np.isfinite(header.position).all()
    assert np.linalg.norm(header.orientation[:3]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": None}, "missing_tag"),
        ({"RescaleIntercept": None}, "missing_tag"),
        ({"BitsStored": 17}, "bad_value"),
        ({"Rows": 0}, "bad_value"),
        ({"RescaleSlope": 0}, "bad_value"),
        ({"PhotometricInterpretation": None}, "missing_tag"),
        ({"PixelRepresentation": 7}, "bad_value"),
        ({"ImagePositionPatient": [1, 2]}, "bad_value"),
        ({"NumberOfFrames": 2}, "not_a_slice"),
        ({"SamplesPerPixel": 3}, "not_a_slice"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_a_slice"),
        ({"PhotometricInterpretation": "MONOCHROMEX"}, "not_a_slice"),
    ],
)
def test_reasons_of_headers(
    ct: Path, tags: dict[str, object], reason: str, change: Callable[..., None], reason_of: Callable[[Path], str]
) -> None:
    change(ct, **tags)
    assert reason_of(ct) == reason


@pytest.mark.parametrize(("rows", "columns"), [(65535, 65535), (65535, 1), (2049, 2048)])
def test_huge_declared_sizes(
    ct: Path, rows: int, columns: int, change: Callable[..., None], reason_of: Callable[[Path], str]
) -> None:
    change(ct, Rows=rows, Columns=columns)
    assert reason_of(ct) in ("too_large", "truncated")


def test_absent_geometry_does_not_hinder_reading(ct: Path, change: Callable[..., None]) -> None:
    change(ct, ImagePositionPatient=None, PixelSpacing=None)
    header = read_header(ct)
    assert np.isnan(header.position).all()
    assert np.isnan(header.row_spacing)
    assert read_hounsfield(ct).shape == (128, 128)
