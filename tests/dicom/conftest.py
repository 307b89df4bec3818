"""DICOM files to read and to change."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from benchmarks.decoder import compress as compress_file
from src.dicom import UnreadableDicom, read_hounsfield


@pytest.fixture(scope="session")
def pydicom_file() -> Callable[[str], Path]:
    """The path of one of pydicom's test files."""
    return lambda name: Path(str(get_testdata_file(name, download=False)))


@pytest.fixture(scope="session")
def pydicom_files(pydicom_file: Callable[[str], Path]) -> list[Path]:
    """All test files that come with pydicom, except the largest."""
    folder = pydicom_file("CT_small.dcm").parent
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 10**7)


@pytest.fixture
def ct(pydicom_file: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a CT slice that a test may change: 128x128, 16-bit signed, slope 1, intercept -1024."""
    return Path(shutil.copy(pydicom_file("CT_small.dcm"), tmp_path / "ct.dcm"))


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """Set tags of a file; None deletes a tag."""

    def _change(path: Path, **tags: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            for tag, value in tags.items():
                if value is None:
                    delattr(dataset, tag)
                elif isinstance(value, pydicom.DataElement):
                    dataset.add(value)
                else:
                    setattr(dataset, tag, value)
            dataset.save_as(path)

    return _change


@pytest.fixture(scope="session")
def set_bytes() -> Callable[..., None]:
    """Replace the value of a tag in an Explicit VR Little Endian file by bytes, valid or not."""

    def _set(path: Path, tag: str, value: bytes) -> None:
        number = pydicom.tag.Tag(tag)
        name = number.group.to_bytes(2, "little") + number.element.to_bytes(2, "little") + b"DS"
        data = path.read_bytes()
        start = data.index(name)
        end = start + 8 + int.from_bytes(data[start + 6 : start + 8], "little")
        value += b" " * (len(value) % 2)
        path.write_bytes(data[:start] + name + len(value).to_bytes(2, "little") + value + data[end:])

    return _set


@pytest.fixture(scope="session")
def rewrite(change: Callable[..., None]) -> Callable[..., None]:
    """Replace a file's pixels, (rows, columns), and set other tags."""

    def _rewrite(path: Path, pixels: np.ndarray, **tags: object) -> None:
        change(path, PixelData=pixels.tobytes(), Rows=pixels.shape[0], Columns=pixels.shape[1], **tags)

    return _rewrite


@pytest.fixture(scope="session")
def reason_of() -> Callable[[Path], str]:
    """The reason for which a file cannot be read."""

    def _reason(path: Path) -> str:
        with pytest.raises(UnreadableDicom) as error:
            read_hounsfield(path)
        assert str(error.value)
        return error.value.reason

    return _reason


@pytest.fixture(scope="session")
def compress() -> Callable[[Path, Path, str], None]:
    """Write a file with its pixels compressed without loss, or by lossy JPEG: (file, new file, GDCM's name)."""
    return compress_file
