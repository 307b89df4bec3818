import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from benchmarks.decoder import compress
from src.dicom import find_series, read_hounsfield
from src.study.find import find_studies
from src.study.read import ReadScan, read_scan
from tests.study.conftest import Head, enhanced


def _read(path: Path) -> ReadScan:
    (scan,) = find_studies([path], engine="serial").studies[0].scans
    return read_scan(scan)


def _rle(path: Path, to: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(to)


def _deflated(path: Path, to: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(to)


def _big_endian(path: Path, to: Path) -> None:
    read, dataset = pydicom.dcmread(path), Dataset()  # a new one: pydicom changes no data set's byte order
    for element in read:
        dataset.add_new(element.tag, element.VR, element.value)
    dataset.PixelData = np.frombuffer(read.PixelData, "<i2").astype(">i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = read.file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.save_as(to, enforce_file_format=True)


def _monochrome1(path: Path, to: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(to)


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "JPEG Lossless": lambda path, to: compress(path, to, "JPEGLosslessProcess14_1"),
    "JPEG 2000": lambda path, to: compress(path, to, "JPEG2000Lossless"),
    "RLE": _rle,
    "deflated": _deflated,
    "big endian": _big_endian,
    "MONOCHROME1": _monochrome1,
}


@pytest.fixture(params=["generated", "real"])
def files(request: pytest.FixtureRequest, write_head: Head, tmp_path: Path) -> list[Path]:
    """A head: twelve slices that tests write, or six of the real one."""
    if request.param == "generated":
        return write_head(tmp_path / "in")
    return sorted(request.getfixturevalue("real_head_ct").glob("*.dcm"))[10:16]


@pytest.fixture
def expected(files: list[Path], tmp_path: Path) -> ReadScan:
    folder = tmp_path / "plain"
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder)
    return _read(folder)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_head_however_it_is_encoded(files: list[Path], expected: ReadScan, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "encoded"
    folder.mkdir()
    for i, path in enumerate(files):
        WAYS[way](path, folder / f"{len(files) - i}")
    found = _read(folder)
    assert [each.id for each in found.scan.slices] == [each.id for each in expected.scan.slices]
    for one, other in zip(found.pixels, expected.pixels, strict=True):
        np.testing.assert_array_equal(one, other)


def _each(files: list[Path], tmp_path: Path) -> Iterator[list[Path]]:
    yield files
    packed = [tmp_path / f"packed{i}.dcm" for i in range(len(files))]
    for path, to in zip(files, packed, strict=True):
        compress(path, to, "JPEGLosslessProcess14_1")
    yield packed


def test_an_enhanced_ct_plain_or_compressed_is_the_same_head(
    files: list[Path], expected: ReadScan, tmp_path: Path
) -> None:
    for i, each in enumerate(_each(files, tmp_path)):
        found = _read(enhanced(each, tmp_path / f"enhanced{i}.dcm"))
        np.testing.assert_allclose(found.scan.z, expected.scan.z)
        for one, other in zip(found.pixels, expected.pixels, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pixels_are_whole_hu_which_clipped_are_the_pipelines(files: list[Path], expected: ReadScan) -> None:
    by_id = {each.id: pixels for each, pixels in zip(expected.scan.slices, expected.pixels, strict=True)}
    for path in files:
        hu = read_hounsfield(path)
        found = by_id[pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID]
        np.testing.assert_array_equal(found, np.rint(hu))
    (series,), _ = find_series(files)
    for clipped, pixels in zip(series.pixels, expected.pixels, strict=True):
        np.testing.assert_array_equal(clipped, np.clip(pixels, -200, 300))


def test_what_cannot_be_read_is_named_and_left_out(write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "in")
    files[3].write_bytes(files[3].read_bytes()[:-1000])
    found = _read(tmp_path / "in")
    assert [(each.path, each.reason) for each in found.unreadable] == [(files[3], "truncated")]
    assert (len(found.pixels), len(found.scan.slices), len(found.scan.z)) == (11, 11, 11)
    whole = enhanced(files[4:], tmp_path / "whole.dcm")
    whole.write_bytes(whole.read_bytes()[:-1000])
    (cut,) = _read(whole).unreadable
    assert cut.reason in ("truncated", "bad_value")
