import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.data import get_testdata_file

from src.dicom import read_hounsfield
from src.errors import UserError
from src.files.image_store import ImageStore
from src.files.slice_labels import SliceLabels, find_rows, read_slice_labels
from src.labels import LABELS, SLICE_ID
from src.preprocess import import_studies as module
from src.preprocess.import_studies import import_studies, slice_id_of
from tests.study.conftest import GAP, enhanced, head_hu, slice_dataset

PATIENTS, SLICES = 5, 4
Import = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients: three as files, one in a zip, one as Enhanced CT; and what is no CT slice."""
    folder = tmp_path_factory.mktemp("own")
    for patient in range(PATIENTS):
        of_patient = folder / f"p{patient}"
        of_patient.mkdir()
        for i, hu in enumerate(head_hu(SLICES, seed=patient)):
            uids = (f"P{patient}", f"1.2.{patient}", f"1.2.{patient}.1")
            slice_dataset(hu, i * GAP, uids, i + 1).save_as(of_patient / f"{i}.dcm", enforce_file_format=True)
    with zipfile.ZipFile(folder / "p3.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "p3").iterdir()):
            archive.write(path, f"cd/{path.name}")
    enhanced(sorted((folder / "p4").iterdir()), folder / "enhanced.dcm")
    for name in ("p3", "p4"):
        shutil.rmtree(folder / name)
    shutil.copy(str(get_testdata_file("MR_small.dcm")), folder)
    (folder / "readme.txt").write_text("for the reader")
    scout = pydicom.dcmread(folder / "p0" / "0.dcm")
    scout.ImageType, scout.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "1.2.9"
    scout.save_as(folder / "scout.dcm")
    shutil.copy(folder / "p1" / "0.dcm", folder / "p1" / "copy.dcm")
    return folder


def _uids() -> list[str]:
    """The slices of the folder: the last patient's are frames of one file."""
    single = [f"1.2.{patient}.1.{i + 1}" for patient in range(PATIENTS - 1) for i in range(SLICES)]
    frames = pydicom.uid.generate_uid(entropy_srcs=["enhanced.dcm"])
    return single + [f"{frames}#{i + 1}" for i in range(SLICES)]


def _labels() -> SliceLabels:
    values = np.zeros((PATIENTS * SLICES, 6))
    values[::2, [0, 5]] = 1
    values[::3, [0, 1]] = 1
    return SliceLabels("SOPInstanceUID", _uids(), values)


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.lstat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.dcm")}


def test_slices_become_a_competition(own: Path, tmp_path: Path) -> None:
    imported = import_studies([own], _labels(), tmp_path / "input", engine="serial")
    assert len(imported.table) == PATIENTS * SLICES
    train = pd.read_csv(tmp_path / "input" / "stage_2_train.csv")
    assert len(train) == PATIENTS * SLICES * 6
    labels = _labels()
    written = train.set_index("ID")["Label"]
    for uid, row in zip(labels.ids, labels.values, strict=True):
        assert [written[f"{slice_id_of(uid)}_{label}"] for label in LABELS] == row.tolist()

    table = pd.read_csv(tmp_path / "input" / "imported.csv").set_index("ID")
    assert table.index.str.fullmatch(SLICE_ID).all()
    assert table["PatientID"].tolist() == sorted(table["PatientID"])  # patients lie together
    for slice_id, row in table.iterrows():
        path = tmp_path / "input" / "stage_2_train" / f"{slice_id}.dcm"
        of_patient = int(row["PatientID"][1])
        assert path.is_symlink() == (of_patient < 3)
        hu = read_hounsfield(path)
        seeds = head_hu(SLICES, seed=of_patient)
        number = SLICES - row["frame"] if row["frame"] else int(row["SOPInstanceUID"].rpartition(".")[2]) - 1
        np.testing.assert_array_equal(hu, seeds[number])
        if of_patient < 3:
            assert str(path.readlink()) == row["path"]
    why = pd.read_csv(tmp_path / "input" / "not_imported_train.csv")["reason"].value_counts()
    assert why.to_dict() == {"not_dicom": 1, "not_hounsfield": 1, "localizer": 1, "duplicate": 1}


def test_ids_depend_on_uids_alone(own: Path, tmp_path: Path) -> None:
    # SHA-256 of "1.2.0.1.1" by coreutils: printf 1.2.0.1.1 | sha256sum
    expected = subprocess.run(["sha256sum"], input="1.2.0.1.1", capture_output=True, text=True).stdout[:16]
    assert slice_id_of("1.2.0.1.1") == f"ID_{expected}"
    shutil.copytree(own / "p0", tmp_path / "elsewhere")
    one = import_studies([own / "p0"], None, tmp_path / "one", engine="serial").table
    two = import_studies([tmp_path / "elsewhere"], None, tmp_path / "two", engine="serial").table
    assert one["ID"].tolist() == two["ID"].tolist()


def test_a_second_run_writes_nothing_and_a_killed_one_is_completed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "input"
    import_studies([own], _labels(), out, engine="serial")
    before, csv = _state(out), (out / "stage_2_train.csv").read_bytes()
    import_studies([own], _labels(), out, engine="serial")
    assert _state(out) == before

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_link", killed)
        with pytest.raises(KeyboardInterrupt):
            import_studies([own], _labels(), out, engine="serial")
    assert not (out / "stage_2_train.csv").exists()
    import_studies([own], _labels(), out, engine="serial")
    assert (out / "stage_2_train.csv").read_bytes() == csv


def test_slices_that_are_gone_are_taken_out(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "input"
    import_studies([own / "p0", own / "p1"], None, out, engine="serial")
    import_studies([own / "p1"], None, out, engine="serial")
    table = pd.read_csv(out / "imported.csv")
    assert set(table["PatientID"]) == {"P1"}
    assert sorted(path.stem for path in (out / "stage_2_test").iterdir()) == sorted(table["ID"])
    assert (own / "p0" / "0.dcm").is_file()  # the link went, not the file


@pytest.mark.parametrize("name", ["stage_2_train.csv", "stage_1_train.csv", "stage_2_test/ID_0.dcm", "kaggle.zip"])
def test_another_competition_is_not_touched(own: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "input" / name
    path.parent.mkdir(parents=True)
    path.write_text("theirs")
    with pytest.raises(UserError, match=r"holds another competition \(.*\); expected a new or empty folder"):
        import_studies([own / "p0"], None, tmp_path / "input", engine="serial")
    assert [each for each in (tmp_path / "input").rglob("*") if each.is_file()] == [path]


def test_two_slices_with_one_id_are_refused(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEX_DIGITS", 0)
    with pytest.raises(UserError, match=r"1\.2\.0\.1\.2 and 1\.2\.0\.1\.1 have the same ID, ID_"):
        import_studies([own / "p0"], None, tmp_path / "input", engine="serial")


def test_labels_that_are_missing_leave_slices_out(own: Path, tmp_path: Path) -> None:
    labels = _labels()
    values = labels.values.copy()
    values[1, 3] = np.nan
    some = SliceLabels("SOPInstanceUID", labels.ids[:3], values[:3])
    imported = import_studies([own / "p0"], some, tmp_path / "input", engine="serial")
    assert imported.table["SOPInstanceUID"].tolist() == ["1.2.0.1.1", "1.2.0.1.3"]
    assert [(each.path.name, each.message) for each in imported.passed_over] == [
        ("1.dcm", "some of its six labels are empty"), ("3.dcm", "no labels")
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"none of the 1 labels, of 9\.9, is the SOPInstanceUID of one of the 4"):
        import_studies(
            [own / "p0"], SliceLabels("SOPInstanceUID", ["9.9"], values[:1]), tmp_path / "x", engine="serial"
        )


def test_files_are_named_by_the_end_of_their_path(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("file,any,epidural,intraparenchymal,intraventricular,subarachnoid,subdural\n"
                                      "a/1.dcm,1,0,0,0,0,1\n2.dcm#3,,0,0,0,0,0\n")  # fmt: skip
    labels = read_slice_labels(tmp_path / "own.csv")
    paths = ["/x/b/1.dcm", "/x/a/1.dcm", "/x/a/2.dcm#3", "/x/a/2.dcm"]
    assert find_rows(labels, [""] * 4, paths).tolist() == [-1, 0, 1, -1]
    np.testing.assert_array_equal(labels.values, [[1, 0, 0, 0, 0, 1], [0] * 6])
    with pytest.raises(UserError, match=r"a/1\.dcm means several files, /x/a/1\.dcm and /y/a/1\.dcm"):
        find_rows(labels, [""] * 2, ["/x/a/1.dcm", "/y/a/1.dcm"])
    with pytest.raises(UserError, match="is meant by several rows"):
        find_rows(SliceLabels("file", ["1.dcm", "a/1.dcm"], labels.values), [""], ["/x/a/1.dcm"])


@pytest.fixture
def run(repository: Path, python: str) -> Import:
    """Run the command."""

    def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "src.preprocess.import_studies", *map(str, arguments), "--engine", "serial"]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True)

    return _run


def test_mistakes_are_one_line(run: Import, own: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("SOPInstanceUID,any,subdural\n1.2,0,1\n")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for arguments, words in (
        ((own, "--output", out), "expected either --labels, for a training set, or --test"),
        ((tmp_path / "empty", "--test", "--output", out), "no CT slices to import in 0 files (no files)"),
        ((own / "readme.txt", "--test", "--output", out), "no CT slices to import in 1 files (1 not_dicom)"),
        ((own, "--labels", tmp_path / "wrong.csv", "--output", out), "any is 0 though a subtype is 1: 1.2"),
        ((own, "--test", "--output", own / "input"), "which is to be imported; expected a folder elsewhere"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done.stdout
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert not out.exists()


def test_the_way_to_the_image_store(
    run: Import, own: Path, repository: Path, python: str, competition: Path, tmp_path: Path
) -> None:
    labels = _labels()
    table = pd.DataFrame(labels.values.astype(int), columns=list(LABELS)).assign(SOPInstanceUID=labels.ids)
    table.to_csv(tmp_path / "own.csv", index=False)
    for arguments, count in (((own, "--labels", tmp_path / "own.csv"), 5), ((own / "p0", "--test"), 1)):
        done = run(*arguments, "--output", tmp_path / "own" / "input")
        assert done.returncode == 0, done.stderr
        assert f"{4 * count} slices, {count} series, {count} patients" in done.stdout
    environment = {**os.environ, "PYTHON": python, "ENGINE": "serial"}

    def preprocess(root: Path) -> None:
        command = ["sh", str(repository / "bin/preprocess.sh")]
        done = subprocess.run(command, env={**environment, "ICH_ROOT": str(root)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    preprocess(tmp_path / "own")
    store = ImageStore(tmp_path / "own" / "cache" / "train")
    assert len(store.index) == PATIENTS * SLICES
    np.testing.assert_array_equal(
        store.hounsfield(slice_id_of("1.2.3.1.2")), np.clip(head_hu(SLICES, seed=3)[1], -200, 300)
    )
    folds = pd.read_parquet(tmp_path / "own" / "cache" / "folds.parquet")
    assert folds.groupby("PatientID")["fold"].nunique().max() == 1
    assert len(ImageStore(tmp_path / "own" / "cache" / "test").index) == SLICES

    # own slices beside another competition's, by the commands of docs/study.md
    text = (repository / "docs/study.md").read_text().partition("## Own slices to train on")[2]
    commands = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") and "python" not in line)
    (tmp_path / "input").symlink_to(competition / "input")
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
    preprocess(tmp_path / "both")
    both = pd.read_parquet(tmp_path / "both" / "cache" / "train.parquet")
    theirs = pd.read_csv(competition / "input" / "stage_2_train.csv")["ID"].str.rpartition("_")[0].nunique()
    assert len(both) == theirs + PATIENTS * SLICES
    assert set(ImageStore(tmp_path / "both" / "cache" / "train").index["ID"]) >= {
        slice_id_of(uid) for uid in labels.ids
    }
