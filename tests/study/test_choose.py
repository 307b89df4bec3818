from collections.abc import Callable
from pathlib import Path

import pytest

from src.study.choose import Choice, choose, is_sharp
from src.study.find import find_studies
from tests.study.conftest import Head

Chosen = Callable[..., dict[str, Choice]]


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    """What is chosen of all that lies in the test's folder, by SeriesInstanceUID."""

    def _chosen(**how: object) -> dict[str, Choice]:
        (study,) = find_studies([tmp_path], engine="serial").studies
        return {choice.scan.uid: choice for choice in choose(study, **{"gap_mm": 5.0} | how)}  # type: ignore[arg-type]

    return _chosen


def test_of_several_reconstructions_soft_tissue_of_the_right_thickness_is_read(
    write_head: Head, tmp_path: Path, chosen: Chosen
) -> None:
    write_head(tmp_path / "a", series="1.2.3.1", ConvolutionKernel="H70h")
    write_head(tmp_path / "b", series="1.2.3.2")
    found = chosen()
    assert not found["1.2.3.1"].read
    assert found["1.2.3.1"].why == "the same scan as series 2, which is read: kernel H70h is for bone"
    assert found["1.2.3.2"].read
    assert found["1.2.3.2"].why == "12 slices, every 5.0 mm, kernel H31s"
    # one whose slices were four times as thick is not nearer
    assert chosen(gap_mm=1.25)["1.2.3.2"].read


def test_another_scan_is_read_too(write_head: Head, tmp_path: Path, chosen: Chosen) -> None:
    write_head(tmp_path / "a", series="1.2.3.1")
    write_head(tmp_path / "b", series="1.2.3.2", ContrastBolusAgent="Iomeprol")
    assert all(choice.read for choice in chosen().values())


def test_what_is_asked_for_is_read(write_head: Head, tmp_path: Path, chosen: Chosen) -> None:
    write_head(tmp_path / "a", series="1.2.3.1", ConvolutionKernel="H70h")
    write_head(tmp_path / "b", series="1.2.3.2")
    assert all(choice.read for choice in chosen(everything=True).values())
    found = chosen(wanted=["1.2.3.1"])
    assert {uid: choice.read for uid, choice in found.items()} == {"1.2.3.1": True, "1.2.3.2": False}


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"SeriesDescription": "Head Scout"}, "a localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "a screen shot"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not axial: coronal slices"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not axial: sagittal slices"),
        ({"BodyPartExamined": "CHEST"}, "BodyPartExamined is CHEST"),
    ],
)
def test_what_headers_rule_out(
    write_head: Head, tmp_path: Path, chosen: Chosen, tags: dict[str, object], why: str
) -> None:
    write_head(tmp_path / "a", series="1.2.3.1", **tags)
    assert (chosen()["1.2.3.1"].read, chosen()["1.2.3.1"].why) == (False, why)


@pytest.mark.parametrize("tilt", [[1, 0, 0, 0, 0.94, -0.34], [1, 0, 0, 0, 0.87, 0.5]])
def test_tilted_gantries_are_axial(write_head: Head, tmp_path: Path, chosen: Chosen, tilt: list[float]) -> None:
    write_head(tmp_path / "a", series="1.2.3.1", ImageOrientationPatient=tilt, BodyPartExamined="HEADNECK")
    assert chosen()["1.2.3.1"].read


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        *((name, True) for name in ("BONE", "BONEPLUS", "EDGE", "LUNG", "H60s", "H70h", "Hr64", "D", "YC", "FC30")),
        *(
            (name, False)
            for name in ("", "STANDARD", "SOFT", "STD+", "H31s", "J40s", "Hc40", "UB", "B", "FC21", "FC68")
        ),
    ],
)
def test_kernels_by_name(kernel: str, sharp: bool) -> None:
    assert is_sharp(kernel) is sharp
