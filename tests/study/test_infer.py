import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.data import get_testdata_file

from src.detector import Detector
from src.detector.detector import Prediction
from src.detector.folder import DistanceLimits
from src.dicom import find_series
from src.labels import LABELS
from src.study import answer
from src.study.answer import Reader, answer_all
from src.study.choose import choose
from src.study.find import Scan, find_studies
from src.study.read import ReadScan
from tests.study.conftest import Head

Infer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def infer(repository: Path, python: str, detector_folder: Path, tmp_path: Path) -> Infer:
    """Run the command in the test's folder, with the small detector unless another one is given."""

    def _infer(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = [str(each) for each in arguments]
        if "--detector" not in given:
            given += ["--detector", str(detector_folder)]
        command = [python, "-m", "src.study.infer", *given, "--engine", "serial", "--output", str(tmp_path / "out")]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True)

    return _infer


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.parent != folder}


def test_a_head_among_others_is_answered(infer: Infer, write_head: Head, detector_folder: Path, tmp_path: Path) -> None:
    files = write_head(tmp_path / "in" / "head", 28)
    for name in ("MR_small.dcm", "examples_rgb_color.dcm", "rtplan.dcm", "CT_small.dcm"):
        shutil.copy(str(get_testdata_file(name)), tmp_path / "in")
    (tmp_path / "in" / "readme.txt").write_text("for the reader")
    done = infer(tmp_path / "in", "--prevalence", "0.1")
    assert done.returncode == 0, done.stderr
    assert "read series 2: 28 slices, every 5.0 mm, kernel H31s" in done.stdout
    assert "refused: series 1: not a head CT" in done.stdout

    out = tmp_path / "out"
    found = pd.read_csv(out / "1.2.3.1" / "predictions.csv")
    assert found.columns.tolist() == ["slice", "SOPInstanceUID", "frame", "z", *LABELS]
    (series,), _ = find_series(files)
    expected = Detector.load(detector_folder)(series)
    assert found["SOPInstanceUID"].tolist() == list(series.ids)
    np.testing.assert_array_equal(found[list(LABELS)], expected)
    np.testing.assert_allclose(found["z"], series.z)

    summary = json.loads((out / "1.2.3.1" / "summary.json").read_text())
    assert list(summary["study"].values()) == pytest.approx(expected.max(axis=0).tolist())
    assert summary["most_suspicious"][0]["slice"] == int(expected[:, 0].argmax()) + 1
    call = summary["calls"]["youden"]
    assert call["any"]["positive"] is bool(expected[:, 0].max() >= 0.5)
    assert call["epidural"] == {"threshold": None, "positive": None, "sensitivity": 0.95, "specificity": 0.8}
    # Bayes by hand: of 1,000, 95 of 100 with and 180 of 900 without a bleed are called
    assert call["any"]["ppv"] == pytest.approx(95 / 275)
    assert call["any"]["npv"] == pytest.approx(720 / 725)
    assert summary["warnings"] == []
    assert summary["provenance"]["runtime"] == "torch"
    page = (out / "1.2.3.1" / "series.html").read_text()
    assert "Doe" not in page

    work = pd.read_csv(out / "worklist.csv")
    assert work["status"].tolist() == ["read", "refused", "not read", "not read", "not read"]
    assert work.loc[0, "folder"] == "1.2.3.1"
    assert "Doe" not in (out / "worklist.csv").read_text() + done.stdout
    passed_over = pd.read_csv(out / "passed_over.csv")
    assert passed_over["reason"].tolist() == ["not_dicom"]


def test_slices_unlike_the_training_data_are_counted_and_warn(
    write_head: Head, detector_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader.load(detector_folder, maps=False)
    network = reader.detector.description.networks[0]
    facts = reader.detector.description.facts | {"about": "It has seen no patient.\n\nAnd so on."}
    known = replace(reader.detector.description, facts=facts, distance=DistanceLimits(network, slices=2.0, series=0.1))
    monkeypatch.setattr(reader.detector, "description", known)
    probabilities, distances = np.full((28, 6), 0.5), np.full(28, 1.0)
    distances[:3] = 2.5
    monkeypatch.setattr(reader.detector, "predict", lambda series, watch=None: Prediction(probabilities, distances))
    write_head(tmp_path / "in", 28)
    (study,) = find_studies([tmp_path / "in"], engine="serial").studies
    (row,) = answer_all(reader, choose(study, gap_mm=5.0), tmp_path / "out")
    assert row.summary is not None
    assert row.summary["unlike_training"] == 3
    assert [each for each in row.summary["warnings"] if "unlike the detector's training data" in each]
    assert "It has seen no patient." in row.summary["warnings"]


def test_a_second_run_does_nothing_and_a_change_is_seen(infer: Infer, write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "in" / "a", series="1.2.3.1")
    write_head(tmp_path / "in" / "b", study="1.2.4", series="1.2.4.1")
    assert infer(tmp_path / "in").returncode == 0
    before, work = _files(tmp_path / "out"), (tmp_path / "out" / "worklist.csv").read_text()
    again = infer(tmp_path / "in")
    assert again.returncode == 0
    assert _files(tmp_path / "out") == before
    assert (tmp_path / "out" / "worklist.csv").read_text() == work
    files[0].unlink()
    (tmp_path / "out" / "1.2.4.1" / "predictions.csv").unlink()
    assert infer(tmp_path / "in").returncode == 0
    after = _files(tmp_path / "out")
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in after)
    assert len(pd.read_csv(tmp_path / "out" / "1.2.3.1" / "predictions.csv")) == 11


def test_one_bad_series_stops_no_other(
    write_head: Head, detector_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(1, 4):
        write_head(tmp_path / "in" / str(i), study=f"1.2.{i}", series=f"1.2.{i}.1")
    for path in (tmp_path / "in" / "1").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    reader = Reader.load(detector_folder)
    real = Detector.predict

    def fails(detector: Detector, series: object, **watching: object) -> Prediction:
        if series.ids[0].startswith("1.2.2."):  # type: ignore[attr-defined]
            raise RuntimeError("no kernel\nimage")
        return real(detector, series, **watching)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "predict", fails)
    studies = find_studies([tmp_path / "in"], engine="serial").studies
    choices = [choice for study in studies for choice in choose(study, gap_mm=5.0)]
    rows = {row.SeriesInstanceUID: row for row in answer_all(reader, choices, tmp_path / "out")}
    assert {uid: row.status for uid, row in rows.items()} == {
        "1.2.1.1": "refused",
        "1.2.2.1": "failed",
        "1.2.3.1": "read",
    }
    assert "none of its slices can be read" in rows["1.2.1.1"].why
    assert rows["1.2.2.1"].why.startswith("RuntimeError: no kernel")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.2.3.1"]


def test_series_without_a_uid_or_with_another_ones_have_their_own_folders(
    write_head: Head, detector_folder: Path, tmp_path: Path
) -> None:
    for i in range(2):
        for path in write_head(tmp_path / "in" / str(i), study=f"1.2.{i + 5}", series=f"1.2.{i + 5}.1"):
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = ""
            dataset.save_as(path)
        write_head(tmp_path / "in" / f"same{i}", study=f"1.2.{i + 7}", series="1.2.9")
        for path in (tmp_path / "in" / f"same{i}").iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID += f".{i}"
            dataset.save_as(path)
    studies = find_studies([tmp_path / "in"], engine="serial").studies
    choices = [choice for study in studies for choice in choose(study, gap_mm=5.0)]
    rows = answer_all(Reader.load(detector_folder), choices, tmp_path / "out")
    assert [row.status for row in rows] == ["read"] * 4
    assert len({row.folder for row in rows}) == len(list((tmp_path / "out").iterdir())) == 4


def test_a_series_too_large_for_the_memory_stops_no_other(
    write_head: Head, detector_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(1, 3):
        write_head(tmp_path / "in" / str(i), study=f"1.2.{i}", series=f"1.2.{i}.1")
    real = answer.read_scan

    def too_large(scan: Scan) -> ReadScan:
        if scan.uid == "1.2.1.1":
            raise MemoryError
        return real(scan)

    monkeypatch.setattr(answer, "read_scan", too_large)
    studies = find_studies([tmp_path / "in"], engine="serial").studies
    choices = [choice for study in studies for choice in choose(study, gap_mm=5.0)]
    rows = answer_all(Reader.load(detector_folder), choices, tmp_path / "out")
    assert {row.SeriesInstanceUID: row.status for row in rows} == {"1.2.1.1": "failed", "1.2.2.1": "read"}


def test_a_full_disk_is_no_bad_series(
    write_head: Head, detector_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_head(tmp_path / "in")
    (study,) = find_studies([tmp_path / "in"], engine="serial").studies

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answer, "write_result", full)
    with pytest.raises(OSError, match="No space left"):
        answer_all(Reader.load(detector_folder), choose(study, gap_mm=5.0), tmp_path / "out")


@pytest.mark.parametrize("uid", ["../../etc/x", "/etc/passwd", ".hidden", "a b", "x" * 300, "\u00e4\u202e"])
def test_a_uid_never_leads_out_of_the_folder(write_head: Head, detector_folder: Path, tmp_path: Path, uid: str) -> None:
    write_head(tmp_path / "in", series="1.2.3.1")
    (study,) = find_studies([tmp_path / "in"], engine="serial").studies
    (scan,) = study.scans
    scan.slices[0].__dict__["series"] = uid
    (row,) = answer_all(Reader.load(detector_folder), choose(study, gap_mm=5.0), tmp_path / "out")
    assert row.status == "read"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [row.folder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_mistakes_are_one_line(infer: Infer, write_head: Head, detector_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    shutil.copy(str(get_testdata_file("MR_small.dcm")), tmp_path / "others")
    (tmp_path / "others" / "x.txt").write_text("x")
    write_head(tmp_path / "head", series="1.2.3.1")
    (tmp_path / "trunk").mkdir()
    shutil.copy(str(get_testdata_file("CT_small.dcm")), tmp_path / "trunk")
    for arguments, words in (
        (["empty"], "no CT slices found (0 files, 0 DICOM objects of other kinds); expected DICOM files of a head CT"),
        (["others"], "no CT slices found (2 files, 1 DICOM objects of other kinds; 1 not_dicom)"),
        (["missing"], "missing is missing; expected a DICOM file, or a folder or zip of them"),
        (["trunk"], "no series was read; "),
        (["head", "--series", "9.9"], "--series 9.9: no CT series found with this SeriesInstanceUID"),
        (["head", "--prevalence", "2"], "argument --prevalence: 2.0: expected a fraction from 0 to 1"),
        (["head", "--detector", str(tmp_path / "empty")], "empty is no detector"),
        (
            ["head", "--runtime", "onnx"],
            "has no ONNX models, which the runtime onnx needs; add them with sh bin/export.sh",
        ),
        (["head", "--device", "tpu9"], "device tpu9: expected cpu, cuda or cuda:<number>"),
    ):
        done = infer(tmp_path / arguments[0], *arguments[1:])
        assert done.returncode == 2, done.stdout
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: "), done.stderr
        assert words in last
        assert "Traceback" not in done.stderr


def test_the_script_takes_paths_as_the_caller_means_them(
    repository: Path, python: str, write_head: Head, detector_folder: Path, tmp_path: Path
) -> None:
    write_head(tmp_path / "a folder" / "in")
    (tmp_path / "root" / "model").mkdir(parents=True)
    shutil.copytree(detector_folder, tmp_path / "root" / "model" / "detector")
    command = ["sh", str(repository / "bin/infer.sh"), "in", "--no-maps"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "ICH_ROOT": str(tmp_path / "root"), "JOBS": "1"}
    done = subprocess.run(command, cwd=tmp_path / "a folder", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a folder" / "answers" / "worklist.csv").is_file()
    nothing = subprocess.run(["sh", str(repository / "bin/infer.sh")], env=environment, capture_output=True, text=True)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error: no PATH; expected DICOM files, folders or zips")
