import os
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from src.dicom.archive import ArchiveMember, DamagedMember, extract, find_members
from src.errors import UserError

SLICE = os.urandom(3000) + bytes(200_000)
DEEP = "rsna-intracranial-hemorrhage-detection/stage_2_train/ID_1.dcm"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "kaggle.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(DEEP, SLICE, zipfile.ZIP_DEFLATED)
        file.writestr("ID_2.dcm", SLICE[::-1], zipfile.ZIP_STORED)
        file.writestr("stage_2_train.csv", "ID,Label\n")
        file.writestr("empty/", "")
    return path


def _only(archive: Path, name: str) -> ArchiveMember:
    (member,) = find_members(archive, [name])
    assert member is not None
    return member


def test_members_are_found_at_any_depth_and_read_in_place(archive: Path) -> None:
    deep, absent, flat = find_members(archive, ["ID_1.dcm", "ID_3.dcm", "ID_2.dcm"])
    assert absent is None
    assert deep is not None
    assert flat is not None
    assert deep.name == DEEP
    assert deep.read() == SLICE
    assert flat.read() == SLICE[::-1]
    for at_most in (1, 2500, 100_000, len(SLICE), len(SLICE) + 1):
        assert deep.read(at_most) == SLICE[:at_most]
        assert flat.read(at_most) == SLICE[::-1][:at_most]


def test_names_are_file_names_not_paths(archive: Path) -> None:
    assert find_members(archive, ["../ID_1.dcm", DEEP, "empty"]) == [None, None, None]


def test_large_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 64-bit fields, which Kaggle's zip needs, in a small file
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a.dcm", "b.dcm"):
            file.writestr(name, SLICE)
    assert b"PK\x06\x06" in path.read_bytes()
    assert [member and member.read() for member in find_members(path, ["a.dcm", "b.dcm"])] == [SLICE, SLICE]


@pytest.mark.parametrize("keep", [0, 10, 4000, -1, -30])
def test_a_truncated_archive_is_named_as_such(archive: Path, keep: int) -> None:
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"kaggle.zip is no whole zip archive .*: the download was cut short"):
        find_members(archive, ["ID_1.dcm"])


def test_a_directory_whose_files_are_missing(archive: Path) -> None:
    # the end of a download without its middle: zipfile itself shifts all offsets
    data = archive.read_bytes()
    archive.write_bytes(data[-600:])
    with pytest.raises(UserError, match=r"kaggle.zip is truncated: it lacks bytes of .*ID_1.dcm"):
        find_members(archive, ["ID_1.dcm"])


def test_damage_anywhere_in_a_member(archive: Path) -> None:
    whole, member = archive.read_bytes(), _only(archive, "ID_1.dcm")
    end = member.offset + 30 + len(DEEP) + member.packed_size
    refused = 0
    for at in [*range(member.offset, member.offset + 4), *range(member.offset + 30 + len(DEEP) - 8, end, 23)]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        archive.write_bytes(damaged)
        try:
            assert member.read() == SLICE  # a bit that means nothing
        except DamagedMember as error:
            assert "kaggle.zip" in str(error)  # noqa: PT017 - either is right
            refused += 1
    assert refused > 100


def test_an_archive_that_changed_since(archive: Path) -> None:
    one, other = _only(archive, "ID_1.dcm"), _only(archive, "ID_2.dcm")
    with pytest.raises(DamagedMember, match=f"another file than {DEEP} begins at byte {other.offset}"):
        one._replace(offset=other.offset).read()
    with pytest.raises(DamagedMember, match="no file begins at byte 99999999"):
        one._replace(offset=99_999_999).read()
    with pytest.raises(FileNotFoundError):
        one._replace(archive="/none.zip").read()


def test_a_member_inflates_to_no_more_than_its_directory_says(archive: Path) -> None:
    member = _only(archive, "ID_1.dcm")
    small = member._replace(size=50, crc32=zlib.crc32(SLICE[:50]))
    assert small.read() == SLICE[:50]
    with pytest.raises(DamagedMember, match="does not have the checksum"):
        member._replace(size=len(SLICE) + 1).read()


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_what_does_not_compress(tmp_path: Path, size: int) -> None:
    noise, path = os.urandom(size), tmp_path / "noise.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ID_1.dcm", noise)
    assert _only(path, "ID_1.dcm").read() == noise
    assert _only(path, "ID_1.dcm").read(60) == noise[:60]


def test_a_directory_that_lies_about_packed_sizes(archive: Path) -> None:
    for name in ("ID_1.dcm", "ID_2.dcm"):
        member = _only(archive, name)
        tracemalloc.start()
        assert member._replace(packed_size=1 << 40).read() == member.read()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("stage_1_train/ID_1.dcm", SLICE)
        file.writestr("stage_2_train/ID_1.dcm", SLICE)
    assert _only(path, "ID_1.dcm").read() == SLICE
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other/ID_1.dcm", b"other")
    with pytest.raises(UserError, match=r"two different files ID_1.dcm: stage_1_train/ID_1.dcm and other/ID_1.dcm"):
        find_members(path, ["ID_1.dcm"])
    assert find_members(path, ["ID_2.dcm"]) == [None]  # what nobody asks for is nobody's concern


def test_members_that_only_an_unzipper_reads(tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("ID_1.dcm", SLICE)
    with pytest.raises(UserError, match=r"ID_1.dcm is encrypted or packed in an unusual way; unpack it"):
        find_members(path, ["ID_1.dcm"])


def test_small_files_are_taken_out(archive: Path) -> None:
    assert extract(archive, ["stage_2_train.csv", "stage_2_sample_submission.csv"]) == {
        "stage_2_train.csv": b"ID,Label\n"
    }
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"ID,Label\n", b"ID,Lobel\n"))
    with pytest.raises(UserError, match=r"is damaged: stage_2_train.csv in .* does not have the checksum"):
        extract(archive, ["stage_2_train.csv"])


def test_a_file_that_inflates_to_more_than_any_table(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extract(archive, ["stage_2_train.csv"]) == {"stage_2_train.csv": b"ID,Label\n"}
    monkeypatch.setattr("src.dicom.archive.MAX_EXTRACTED", 8)
    with pytest.raises(UserError, match=r"stage_2_train.csv inflates to 9 bytes; expected at most 8"):
        extract(archive, ["stage_2_train.csv"])
