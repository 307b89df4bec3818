import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from src.errors import UserError
from src.study.find import Found, find_studies
from tests.study.conftest import GAP, Head, enhanced


def _find(*paths: Path) -> Found:
    return find_studies(paths, engine="serial")


def _change(path: Path, **tags: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_a_head_in_any_order_is_one_scan_along_its_normal(write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "a")
    for name, path in zip(np.random.default_rng(0).permutation(12), files, strict=True):
        path.rename(tmp_path / "a" / f"{name}.bin")  # neither names nor suffixes count
    (study,) = _find(tmp_path).studies
    (scan,) = study.scans
    assert scan.z.tolist() == [i * GAP for i in range(12)]
    assert [each.sop_instance.rsplit(".", 1)[1] for each in scan.slices] == [str(i) for i in range(1, 13)]
    assert (study.patient, study.uid, scan.uid, scan.part) == ("P1", "1.2.3", "1.2.3.1", 0)


def test_a_cd_in_a_zip_is_the_same(write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "cd.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(str(get_testdata_file("DICOMDIR")), "DICOMDIR")
        archive.writestr("VIEWER/viewer.exe", b"MZ" + b"\0" * 100_000)
        archive.writestr("__MACOSX/DICOM/._I1", b"resource fork")
        archive.writestr("DICOM/", "")
        for i, path in enumerate(files):
            archive.write(path, f"DICOM/S1/I{i}")
    found = _find(tmp_path / "cd.zip")
    scans = [scan for study in found.studies for scan in study.scans]
    assert [len(scan.slices) for scan in scans] == [12]
    assert found.n_files == 15
    assert {each.reason for each in found.passed_over} == {"not_dicom"}
    assert {each.path.name for each in found.passed_over} == {"viewer.exe", "._I1"}
    # the same zip within the folder, and the folder itself: every slice once
    both = _find(tmp_path)
    assert [len(scan.slices) for study in both.studies for scan in study.scans] == [12]
    assert sum(each.reason == "duplicate" for each in both.passed_over) == 12


def test_everything_of_pydicoms_tests_around_a_head(write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "in" / "head")
    shutil.copytree(Path(str(get_testdata_file("CT_small.dcm"))).parent, tmp_path / "in" / "others")
    found = _find(tmp_path)
    (study,) = [study for study in found.studies if study.uid == "1.2.3"]
    assert [len(scan.slices) for scan in study.scans] == [12]
    others = {series[0].modality for study in found.studies for series in study.others}
    assert {"MR", "US", "RTDOSE", "RTPLAN", "SR"} <= others
    counted = sum(len(scan.slices) for study in found.studies for scan in study.scans)
    counted += sum(len(series) for study in found.studies for series in study.others)
    assert counted + len(found.passed_over) >= found.n_files  # nothing is lost


def test_two_interleaved_series_and_two_patients_stand_apart(write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "x", series="1.2.3.1")
    write_head(tmp_path / "x", series="1.2.3.2")
    write_head(tmp_path / "x", patient="P2", study="1.2.4")
    studies = _find(tmp_path).studies
    assert {study.patient: [scan.uid for scan in study.scans] for study in studies} == {
        "P1": ["1.2.3.1", "1.2.3.2"],
        "P2": ["1.2.4.25"],
    }


def test_a_localizer_within_a_series_is_a_part_of_its_own(write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "x")
    _change(files[0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    (study,) = _find(tmp_path).studies
    assert [(len(scan.slices), scan.part) for scan in study.scans] == [(11, 1), (1, 2)]


def test_two_acquisitions_at_the_same_places_are_two_scans(write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "one", series="1.2.3.1")
    for path in write_head(tmp_path / "two", series="1.2.3.1"):
        uid = pydicom.dcmread(path).SOPInstanceUID
        _change(path, SOPInstanceUID=f"{uid}.2", AcquisitionNumber=2)
    (study,) = _find(tmp_path).studies
    assert [len(scan.slices) for scan in study.scans] == [12, 12]
    assert [{each.acquisition for each in scan.slices} for scan in study.scans] == [{"1"}, {"2"}]
    assert len({scan.name for scan in study.scans}) == 2


def test_pieces_of_one_acquisition_each_stay_together(write_head: Head, tmp_path: Path) -> None:
    # some scanners count an acquisition for each slice
    for i, path in enumerate(write_head(tmp_path / "x")):
        _change(path, AcquisitionNumber=i)
    (study,) = _find(tmp_path).studies
    assert [len(scan.slices) for scan in study.scans] == [12]


def test_frames_of_an_enhanced_ct_are_slices(write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "x")
    (classic,) = _find(tmp_path / "x").studies[0].scans
    whole = enhanced(files, tmp_path / "whole.dcm")
    (scan,) = _find(whole).studies[0].scans
    assert scan.z.tolist() == classic.z.tolist()
    assert [each.frame for each in scan.slices] == list(range(12, 0, -1))
    assert len({each.id for each in scan.slices}) == 12
    assert (scan.first.kernel, scan.first.thickness) == ("H31s", 5.0)


def test_damaged_and_encrypted_archives_are_named(write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "in" / "x")
    (tmp_path / "in" / "cut.zip").write_bytes(b"PK\3\4" + b"\0" * 100)
    with zipfile.ZipFile(tmp_path / "in" / "secret.zip", "w") as archive:
        archive.writestr("a.dcm", b"x")
    data = bytearray((tmp_path / "in" / "secret.zip").read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    (tmp_path / "in" / "secret.zip").write_bytes(bytes(data))
    found = _find(tmp_path / "in")
    assert sum(len(study.scans) for study in found.studies) == 1
    assert {each.path.name: each.reason for each in found.passed_over} == {
        "cut.zip": "damaged_archive",
        "a.dcm": "damaged_archive",
    }
    assert any("encrypted" in each.message for each in found.passed_over)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is missing; expected a DICOM file, or a folder or zip of them"):
        _find(tmp_path / "none")


def test_a_loop_of_links_ends(write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert _find(tmp_path / "in").n_files == 12
