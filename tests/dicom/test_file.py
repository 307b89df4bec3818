import errno
import os
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.dicom import MAX_BYTES, REASONS, read_header, read_hounsfield, read_stored
from src.errors import Stopped


def test_reasons_of_files_that_are_no_dicom(tmp_path: Path, ct: Path, reason_of: Callable[[Path], str]) -> None:
    assert reason_of(tmp_path / "none.dcm") == "missing_file"
    assert reason_of(tmp_path) == "missing_file"
    (tmp_path / "empty.dcm").touch()
    assert reason_of(tmp_path / "empty.dcm") == "not_dicom"
    (tmp_path / "text.dcm").write_text("not DICOM at all" * 50)
    assert reason_of(tmp_path / "text.dcm") == "not_dicom"
    ct.write_bytes(ct.read_bytes()[:-5000])
    assert reason_of(ct) in ("truncated", "no_pixels")


def test_files_that_are_no_files(tmp_path: Path, reason_of: Callable[[Path], str]) -> None:
    loop = tmp_path / "loop.dcm"
    loop.symlink_to(tmp_path / "pool.dcm")
    (tmp_path / "pool.dcm").symlink_to(loop)
    assert reason_of(loop) == "missing_file"
    os.mkfifo(tmp_path / "pipe.dcm")
    assert reason_of(tmp_path / "pipe.dcm") == "missing_file"
    assert reason_of(Path("/dev/zero")) == "missing_file"


def test_a_file_larger_than_any_slice(ct: Path, reason_of: Callable[[Path], str]) -> None:
    with ct.open("ab") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    assert reason_of(ct) == "too_large"


def test_an_unknown_transfer_syntax(ct: Path, reason_of: Callable[[Path], str]) -> None:
    data = ct.read_bytes()
    assert data.count(b"1.2.840.10008.1.2.1\0") == 1
    ct.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"))
    assert reason_of(ct) in REASONS


def test_being_told_to_stop_is_no_fault_of_the_file(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # SIGTERM comes as an exception, also in the middle of a file; it must end the run, not reject the slice
    def stop(*args: object, **how: object) -> None:
        raise Stopped("SIGTERM")

    monkeypatch.setattr("src.dicom.file.pydicom.dcmread", stop)
    with pytest.raises(Stopped):
        read_hounsfield(ct)


def test_errors_of_the_machine_are_not_the_files(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("src.dicom.file.os.open", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        read_hounsfield(ct)


# ---- deflated files, and headers longer than the head that is read first


def _deflated(head: bytes, body: bytes) -> bytes:
    """A deflated file from an explicit VR little endian one's file meta and data set."""
    packer = zlib.compressobj(9, wbits=-15)
    meta = head.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # the UID is two bytes longer: its own length, and that of the group
    at = meta.index(b"\x02\x00\x10\x00UI") + 6
    meta = meta[:at] + b"\x16\x00" + meta[at + 2 :]
    meta = meta[:140] + (int.from_bytes(meta[140:144], "little") + 2).to_bytes(4, "little") + meta[144:]
    return meta + packer.compress(body) + packer.flush()


def _halves(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    return data[:start], data[start:]


def test_a_deflated_file(ct: Path) -> None:
    before, header = read_stored(ct)
    ct.write_bytes(_deflated(*_halves(ct)))
    np.testing.assert_array_equal(read_stored(ct)[0], before)
    assert read_header(ct) == header


def test_a_long_header_is_read_whole(ct: Path) -> None:
    before, header = read_stored(ct)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(ct)
        block = dataset.private_block(0x0011, "TEST", create=True)
        block.add_new(0x01, "UN", bytes(100_000))
        dataset.save_as(ct)
    assert read_header(ct) == header
    np.testing.assert_array_equal(read_stored(ct)[0], before)
    ct.write_bytes(_deflated(*_halves(ct)))
    assert read_header(ct) == header
    np.testing.assert_array_equal(read_stored(ct)[0], before)


def test_a_deflate_bomb(ct: Path, reason_of: Callable[[Path], str]) -> None:
    head, body = _halves(ct)
    ct.write_bytes(_deflated(head, body + bytes(MAX_BYTES)))  # 67 MB, that take 65 KB
    assert ct.stat().st_size < 300_000
    assert reason_of(ct) == "too_large"
    # one whose file meta hides the transfer syntax from a reader that trusts its length
    meta = bytearray(_deflated(head, body + bytes(MAX_BYTES)))
    meta[140:144] = (10).to_bytes(4, "little")
    ct.write_bytes(meta)
    assert reason_of(ct) in REASONS


# ---- arbitrary bytes


_FUZZ = """
import resource, sys, time
from pathlib import Path
from src.dicom import REASONS, UnreadableDicom, read_hounsfield, read_header
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
read_hounsfield(Path(sys.argv[2]))
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    begun = time.process_time()
    for read in (read_hounsfield, read_header):
        try:
            read(path)
            answer = "image"
        except UnreadableDicom as error:
            answer = error.reason if error.reason in REASONS else "unknown reason " + error.reason
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
    print(f"{answer}\\t{time.process_time() - begun}\\t{grown}", flush=True)
"""


@pytest.fixture(scope="module")
def reader(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, pydicom_file: Callable[[str], Path]
) -> Iterator[Callable[[bytes], str]]:
    """Reads bytes as a DICOM file in a process of its own, which a decoder may bring down, and asks what it cost."""
    path = tmp_path_factory.mktemp("fuzz") / "slice.dcm"
    process = subprocess.Popen(
        [sys.executable, "-c", _FUZZ, str(path), str(pydicom_file("693_J2KI.dcm"))],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def read(data: bytes) -> str:
        path.write_bytes(data)
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the reader's process died"
        outcome, seconds, megabytes = answer.split("\t")
        assert outcome in (*REASONS, "image")
        assert float(seconds) < 2
        assert int(megabytes) < 500
        return outcome

    yield read
    process.kill()
    process.wait()


def _as_ct(path: Path, folder: Path, change: Callable[..., None]) -> bytes:
    copy = Path(shutil.copy(path, folder / "as_ct.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(copy)
        if "RescaleIntercept" not in dataset:
            change(copy, RescaleIntercept="-1024", RescaleSlope="1")
    return copy.read_bytes()


# CTs, and images of other transfer syntaxes that two tags turn into CT slices
SEEDS = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_expb.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
    "liver_expb_1frame.dcm",
)


def test_every_file_that_pydicom_brings_costs_little(reader: Callable[[bytes], str], pydicom_files: list[Path]) -> None:
    outcomes = [reader(path.read_bytes()) for path in pydicom_files]
    assert len(outcomes) > 150
    assert {"image", "not_dicom", "missing_tag", "not_a_slice"} <= set(outcomes)


@pytest.mark.parametrize("name", SEEDS)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_mutations(
    reader: Callable[[bytes], str],
    tmp_path: Path,
    name: str,
    data: st.DataObject,
    pydicom_file: Callable[[str], Path],
    change: Callable[..., None],
) -> None:
    seed = bytearray(_as_ct(pydicom_file(name), tmp_path, change))
    header = min(len(seed) - 1, 3000)
    kind = data.draw(st.sampled_from(["header", "pixels", "cut", "double"]))
    if kind in ("header", "pixels"):
        first, last = (128, header) if kind == "header" else (header, len(seed) - 1)
        for _ in range(data.draw(st.integers(1, 6))):
            seed[data.draw(st.integers(first, last))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del seed[data.draw(st.integers(0, len(seed))) :]
    else:
        at = data.draw(st.integers(128, header))
        seed[at:at] = seed[at : at + data.draw(st.integers(1, 400))]
    reader(bytes(seed))
