import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from src.errors import UserError
from src.labels import LABELS, SUBTYPES, split_row_ids
from src.sample.dicom_writer import encode_dicom
from src.sample.easy.scan import Scan
from src.sample.make_competition import MARKER, SCANS, Summary, make_competition
from src.sample.plan import DIFFICULTIES, MIN_PATIENTS, MIN_SLICES, make_plan

SIZE = 64
SETTINGS = {"patients": MIN_PATIENTS, "slices": MIN_SLICES, "size": SIZE, "difficulty": "easy", "seed": 3}


@dataclass(frozen=True)
class Competition:
    folder: Path
    summary: Summary
    settings: dict[str, Any]

    def images(self, split: str) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.folder / f"stage_2_{split}").iterdir())}

    def labels(self, name: str) -> pd.DataFrame:
        """A row for each slice, a column for each label."""
        table = pd.read_csv(self.folder / f"stage_2_{name}.csv").drop_duplicates()
        parts = table["ID"].str.rsplit("_", n=1, expand=True)
        return table.assign(slice=parts[0], label=parts[1]).pivot(index="slice", columns="label", values="Label")

    def whole(self, split: str) -> dict[str, pydicom.Dataset]:
        """The data sets of all files that are not truncated."""
        broken = self.summary.oddities["truncated file"]
        return {name: read(path) for name, path in self.images(split).items() if name not in broken}

    def series(self, split: str) -> dict[str, list[pydicom.Dataset]]:
        """The slices of each series from the lowest to the highest, those of truncated files left out."""
        found = defaultdict(list)
        for dataset in self.whole(split).values():
            found[str(dataset.SeriesInstanceUID)].append(dataset)
        return {name: sorted(one, key=lambda d: d.ImagePositionPatient[2]) for name, one in found.items()}


def read(path: Path, **how: bool) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Invalid value for VR UI")  # `ID_...` is no UID
        dataset = pydicom.dcmread(path, **how)
        str(dataset)  # pydicom converts, and warns, when an element is first used
    return dataset


def hounsfield(dataset: pydicom.Dataset) -> np.ndarray:
    """HU, decoded here once more so that the tests do not lean on the code that they are to feed."""
    dtype = "<i2" if dataset.PixelRepresentation else "<u2"
    stored = np.frombuffer(dataset.PixelData, dtype).reshape(dataset.Rows, dataset.Columns).astype(int)
    intercept = int(dataset.RescaleIntercept)
    if dataset.BitsStored == 12 and not dataset.PixelRepresentation and intercept > -100:
        stored = stored + 1000
        stored = np.where(stored >= 4096, stored - 4096, stored)
        intercept = -1000
    return stored * int(dataset.RescaleSlope) + intercept


@pytest.fixture(scope="module", params=DIFFICULTIES)
def competition(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Competition:
    folder = tmp_path_factory.mktemp("sample") / "input"
    settings = {**SETTINGS, "difficulty": request.param}
    return Competition(folder, make_competition(folder, **settings), settings)


TAGS = {
    "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelData",
}  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- what is in the folder


def test_layout_is_kaggles(competition: Competition):
    assert {path.name for path in competition.folder.iterdir()} == {
        "stage_2_train.csv",
        "stage_2_sample_submission.csv",
        "stage_2_test_truth.csv",
        "stage_2_train",
        "stage_2_test",
        MARKER,
    }
    for split in ("train", "test"):
        images = competition.images(split)
        assert len(images) == competition.summary.slices[split]
        assert all(path.suffix == ".dcm" for path in images.values())


def test_tables_hold_six_rows_for_each_image_in_kaggles_order(competition: Competition):
    for name, split in (("train", "train"), ("sample_submission", "test"), ("test_truth", "test")):
        table = pd.read_csv(competition.folder / f"stage_2_{name}.csv")
        assert list(table.columns) == ["ID", "Label"]
        slices, codes = split_row_ids(table["ID"])
        assert set(slices) == set(competition.images(split))
        assert [LABELS[code] for code in codes[:6]] == [*SUBTYPES, "any"]
        assert (slices.to_numpy().reshape(-1, 6) == slices.to_numpy()[::6, None]).all()
        assert slices.str.fullmatch(r"ID_[0-9a-f]{9}").all()
    sample = pd.read_csv(competition.folder / "stage_2_sample_submission.csv")
    truth = pd.read_csv(competition.folder / "stage_2_test_truth.csv")
    assert (sample["Label"] == 0.5).all()
    assert sample["ID"].equals(truth["ID"])
    assert set(truth["Label"]) == {0, 1}


def test_any_is_the_maximum_of_the_subtypes(competition: Competition):
    for name in ("train", "test_truth"):
        labels = competition.labels(name)
        np.testing.assert_array_equal(labels["any"], labels[list(SUBTYPES)].max(axis=1))
    train = competition.labels("train")
    if competition.settings["difficulty"] == "easy":  # hard mode shares them out as the competition does
        assert (train[list(LABELS)].sum() > 0).all()
    assert set(train["any"]) == {0, 1}
    shares = pd.concat([train, competition.labels("test_truth")])[list(LABELS)].mean()
    assert shares.to_dict() == pytest.approx(competition.summary.prevalence, abs=1e-4)


# ---- headers


def test_headers_hold_the_competitions_tags_and_no_others(competition: Competition):
    for split in ("train", "test"):
        for name, dataset in competition.whole(split).items():
            assert {element.keyword for element in dataset} == TAGS
            assert dataset.SOPInstanceUID == name
            assert dataset.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
            assert dataset.StudyID == ""
            assert len(dataset.PixelData) == 2 * dataset.Rows * dataset.Columns
            assert dataset.HighBit == dataset.BitsStored - 1
            assert dataset.RescaleSlope == 1


def test_geometry_is_a_stack_along_z(competition: Competition):
    tilts = []
    for split in ("train", "test"):
        for datasets in competition.series(split).values():
            positions = np.array([d.ImagePositionPatient for d in datasets], dtype=float)
            assert np.ptp(positions[:, :2], axis=0).max() < 1e-3
            assert (np.diff(positions[:, 2]) > 2).all()
            row, column = np.array(datasets[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
            assert row.tolist() == [1, 0, 0]
            assert np.linalg.norm(column) == pytest.approx(1, abs=1e-5)
            assert column[2] <= 0
            tilts.append(column[2] < 0)
            assert 220 < datasets[0].PixelSpacing[0] * datasets[0].Rows < 250
    assert 0.3 < np.mean(tilts) < 0.7


@pytest.mark.parametrize("tilted", [False, True])
def test_headers_and_anatomy_agree_on_distances(tilted):
    """Between any two pixels of a series the header's geometry and the head's frame measure the same distance."""
    plan = make_plan(**SETTINGS)
    study = next(study for study in plan.studies if study.tilted == tilted)
    scan = Scan.of(study, SETTINGS["seed"])
    pixels = np.array([(0, 0, 0), (0, 50, 7), (1, 3, 40), (3, 0, 0), (3, 60, 60)])  # slice, row, column
    by_header, by_anatomy = [], []
    for index, row, column in pixels:
        header, plane = scan.slice(index).header, scan.plane(index)
        down = np.array([0, np.cos(header.tilt), -np.sin(header.tilt)])
        right = np.array([1, 0, 0])
        by_header.append(np.array(header.position) + header.pixel_mm * (row * down + column * right))
        by_anatomy.append(np.array([plane.x[row, column], plane.y[row, column], plane.z]))
    for i in range(len(pixels)):
        for j in range(i):
            expected = np.linalg.norm(by_header[i] - by_header[j])
            assert np.linalg.norm(by_anatomy[i] - by_anatomy[j]) == pytest.approx(expected, abs=0.01)


def test_order_of_names_says_nothing_of_z(competition: Competition):
    ordered = [
        [d.SOPInstanceUID for d in datasets] == sorted(d.SOPInstanceUID for d in datasets)
        for datasets in competition.series("train").values()
    ]
    assert np.mean(ordered) < 0.5


def test_a_series_has_one_patient_study_and_encoding(competition: Competition):
    twins = competition.summary.oddities["identical pixels under two patients"]
    for datasets in competition.series("train").values():
        own = [d for d in datasets if d.SOPInstanceUID != twins[1]]
        assert len({(d.PatientID, d.StudyInstanceUID) for d in datasets}) == 1
        assert len({(d.BitsStored, d.RescaleIntercept, d.Rows, d.Columns, str(d.WindowCenter)) for d in own}) == 1


# ---- pixels


def test_hu_are_a_heads_in_every_encoding(competition: Competition):
    oddities = competition.summary.oddities
    constant = oddities["constant slice"][0]
    series = competition.series("train") | competition.series("test")
    for name in ("16-bit signed", "12-bit unsigned", "wrapped", "16-bit signed without intercept"):
        assert oddities[f"stored {name}"]
        for series_id in oddities[f"stored {name}"]:
            for dataset in series[series_id]:
                if dataset.SOPInstanceUID == constant:
                    continue
                hu = hounsfield(dataset)
                brain = hu[(hu > 0) & (hu < 90)]
                assert 20 < np.median(brain) < 45
                assert brain.size > 0.1 * hu.size
                assert hu.max() > 800, "bone"
                assert np.median(hu[1, SIZE // 3 : -SIZE // 3]) < -900, "air"


def test_no_two_slices_share_their_noise(competition: Competition):
    odd = {*competition.summary.oddities["constant slice"]}
    odd.add(competition.summary.oddities["identical pixels under two patients"][0])
    # 16-bit values are not clipped at air, so noise shows in the sky above the head
    sky = [
        hounsfield(d)[1, 24:-24]  # within the circle, above any forehead
        for name, d in competition.whole("train").items()
        if d.BitsStored == 16 and d.Rows == d.Columns and name not in odd
    ]
    correlation = np.corrcoef(sky) - np.eye(len(sky))
    assert correlation.max() < 0.9


def test_encodings_look_as_in_the_competition(competition: Competition):
    kinds = {
        (d.BitsStored, d.PixelRepresentation, int(d.RescaleIntercept)): hounsfield(d).min()
        for d in competition.whole("train").values()
        if d.SOPInstanceUID not in competition.summary.oddities["constant slice"]
    }
    assert kinds[16, 1, -1024] == -3024
    assert kinds[16, 1, 0] == -2000
    assert kinds[12, 0, -1024] >= -1024
    assert kinds[12, 0, 0] >= -1000
    assert len(kinds) == 4


def test_bleeding_slices_hold_more_blood_than_others(competition: Competition):
    """Fresh blood is what brain is not: a slice's share of pixels of 60..85 HU tells bleeds apart in easy mode."""
    if competition.settings["difficulty"] != "easy":
        return  # small and old bleeds, calcium and dense vessels are what hard mode is for
    labels = pd.concat([competition.labels("train"), competition.labels("test_truth")])
    share = {}
    for split in ("train", "test"):
        for name, dataset in competition.whole(split).items():
            if name in competition.summary.oddities["constant slice"]:
                continue
            hu = hounsfield(dataset)
            share[name] = ((hu > 60) & (hu < 85)).sum() / ((hu > 0) & (hu < 90)).sum()
    shares = pd.Series(share)
    bleeding = labels.loc[shares.index, "any"] == 1
    assert shares[bleeding].median() > 2 * shares[~bleeding].median()


# ---- oddities


def test_truncated_files_end_within_their_pixels(competition: Competition):
    train, test = competition.summary.oddities["truncated file"]
    for split, name in (("train", train), ("test", test)):
        paths = competition.images(split)
        dataset = read(paths[name], stop_before_pixels=True)
        assert dataset.SOPInstanceUID == name
        assert paths[name].stat().st_size < 2 * dataset.Rows * dataset.Columns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((ValueError, EOFError, AttributeError)):
                _ = pydicom.dcmread(paths[name]).pixel_array


def test_one_slice_is_constant_and_has_no_label(competition: Competition):
    whole = competition.whole("train")
    constant = [name for name, d in whole.items() if len(set(d.PixelData[::2])) == len(set(d.PixelData[1::2])) == 1]
    assert constant == competition.summary.oddities["constant slice"]
    assert competition.labels("train").loc[constant[0]].sum() == 0


def test_one_pair_of_patients_shares_a_slice_and_its_labels(competition: Competition):
    whole = competition.whole("train") | competition.whole("test")
    by_pixels: dict[bytes, list[str]] = {}
    for name, dataset in whole.items():
        by_pixels.setdefault(dataset.PixelData, []).append(name)
    pairs = [names for names in by_pixels.values() if len(names) > 1]
    assert len(pairs) == 1
    assert set(pairs[0]) == set(competition.summary.oddities["identical pixels under two patients"])
    first, second = (whole[name] for name in pairs[0])
    assert first.PatientID != second.PatientID
    np.testing.assert_array_equal(hounsfield(first), hounsfield(second))
    labels = competition.labels("train")
    np.testing.assert_array_equal(labels.loc[pairs[0][0]], labels.loc[pairs[0][1]])


def test_two_images_have_their_rows_twice(competition: Competition):
    table = pd.read_csv(competition.folder / "stage_2_train.csv")
    again = table[table["ID"].duplicated()]
    assert len(again) == 12
    assert set(split_row_ids(again["ID"])[0]) == set(competition.summary.oddities["duplicate CSV rows"])
    assert table.groupby("ID")["Label"].nunique().max() == 1
    assert len(pd.read_csv(competition.folder / "stage_2_test_truth.csv")) == 6 * len(competition.images("test"))


def test_patients_recur(competition: Competition):
    frames = {
        split: pd.DataFrame(
            [(str(d.PatientID), str(d.StudyInstanceUID)) for d in competition.whole(split).values()],
            columns=["patient", "study"],
        )
        for split in ("train", "test")
    }
    studies = frames["train"].groupby("patient")["study"].nunique()
    assert sorted(studies.index[studies > 1]) == competition.summary.oddities["patient with several studies"]
    shared = set(frames["train"]["patient"]) & set(frames["test"]["patient"])
    assert sorted(shared) == competition.summary.oddities["patient in train and test"]
    assert len(shared) == 1
    assert not set(frames["train"]["study"]) & set(frames["test"]["study"])
    everyone = set(frames["train"]["patient"]) | set(frames["test"]["patient"])
    assert len(everyone) == competition.summary.patients == MIN_PATIENTS


def test_one_series_is_not_square(competition: Competition):
    narrow = {
        str(d.SeriesInstanceUID): (d.Rows, d.Columns)
        for split in ("train", "test")
        for d in competition.whole(split).values()
        if d.Rows != d.Columns
    }
    assert list(narrow) == competition.summary.oddities["series not square"]
    assert list(narrow.values()) == [(SIZE, round(SIZE * 404 / 512))]


def test_both_transfer_syntaxes_and_both_kinds_of_window_occur(competition: Competition):
    whole = competition.whole("train").values()
    assert {d.file_meta.TransferSyntaxUID.name for d in whole} == {
        "Explicit VR Little Endian",
        "Implicit VR Little Endian",
    }
    assert {d["WindowCenter"].VM for d in whole} == {1, 2}
    several = next(d for d in whole if d["WindowCenter"].VM == 2)
    assert [value.original_string for value in several.WindowWidth] == ["00080", "00080"]


# ---- the plan


@pytest.mark.parametrize("patients", [8, 9, 10, 11, 13, 18, 25, 36, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_of_any_size_spreads_subtypes_and_has_every_oddity(patients, seed):
    plan = make_plan(patients=patients, slices=6, size=64, seed=seed)
    train = {s.patient: s.bleeds for s in plan.studies if s.split == "train"}
    counts = [sum(name in bleeds for bleeds in train.values()) for name in SUBTYPES]
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1
    assert all(len(set(s.bleeds)) == len(s.bleeds) <= 2 for s in plan.studies)
    assert any(s.bleeds for s in plan.studies if s.split == "test")
    assert 0.38 <= np.mean([bool(s.bleeds) for s in plan.studies]) <= (0.55 if patients > 20 else 0.62)
    assert len({s.patient for s in plan.studies}) == patients
    ids = [name for s in plan.studies for name in s.slice_ids]
    assert len(set(ids)) == len(ids)
    assert 5.5 <= np.mean([len(s.slice_ids) for s in plan.studies]) <= 6.5
    odd = [*plan.truncated, plan.constant, *plan.identical]
    assert len(set(odd)) == len(odd)


def test_prevalence_of_the_demo_is_several_times_the_competitions(tmp_path):
    summary = make_competition(tmp_path / "input", patients=36, slices=12, size=32, seed=0)
    assert 0.28 <= summary.prevalence["any"] <= 0.45
    assert min(summary.prevalence[name] for name in SUBTYPES) > 0.04
    assert 400 <= sum(summary.slices.values()) <= 600


# ---- the folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(competition: Competition, tmp_path):
    make_competition(tmp_path / "again", **competition.settings, jobs=2)
    assert digests(tmp_path / "again") == digests(competition.folder)
    make_competition(tmp_path / "other", **{**competition.settings, "seed": 4})
    assert not set(digests(tmp_path / "other")) & {name for name in digests(competition.folder) if "/" in name}


def test_a_slice_does_not_depend_on_those_made_before_it(competition: Competition):
    study = make_plan(**competition.settings).studies[-1]
    rendered = SCANS[competition.settings["difficulty"]].of(study, SETTINGS["seed"]).slice(2)
    path = competition.images("test")[study.slice_ids[2]]
    assert path.read_bytes() == encode_dicom(rendered.stored, rendered.header)


@pytest.fixture
def own(competition: Competition, tmp_path) -> Path:
    return Path(shutil.copytree(competition.folder, tmp_path / "input"))


def test_the_same_settings_again_do_nothing(own: Path, competition: Competition):
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    summary = make_competition(own, **competition.settings)
    assert summary.already_there
    assert summary.oddities == competition.summary.oddities
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_a_missing_file_is_made_again(own: Path, competition: Competition):
    next((own / "stage_2_test").iterdir()).unlink()
    assert not make_competition(own, **competition.settings).already_there
    assert digests(own) == digests(competition.folder)


def test_other_settings_replace_everything(own: Path, competition: Competition):
    make_competition(own, **{**SETTINGS, "seed": 5})
    assert json.loads((own / MARKER).read_text())["settings"]["seed"] == 5
    assert not set(digests(own)) & {name for name in digests(competition.folder) if "/" in name}
    assert [path.name for path in own.parent.iterdir()] == ["input"]


@pytest.mark.parametrize("foreign", ["notes.txt", "stage_2_train/ID_0123456789.dcm", "stage_2_train.csv"])
def test_a_folder_with_foreign_files_is_refused_and_kept(own: Path, foreign: str):
    (own / foreign).write_text("somebody's work")
    before = digests(own)
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(own, **{**SETTINGS, "seed": 5})
    assert digests(own) == before


def test_kaggles_data_are_refused_and_kept(tmp_path):
    (tmp_path / "stage_2_train.csv").write_text("ID,Label\n")
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(tmp_path, **SETTINGS)
    assert (tmp_path / "stage_2_train.csv").read_text() == "ID,Label\n"


@pytest.mark.parametrize("marker", ["", "[]", '{"generator": "something else"}'])
def test_a_marker_that_is_not_ours_protects(tmp_path, marker):
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(tmp_path, **SETTINGS)


def test_what_a_killed_run_left_is_cleared_away(own: Path, tmp_path, competition: Competition):
    target = tmp_path / "fresh"
    left = target.with_name("fresh.partial")
    (left / "stage_2_train").mkdir(parents=True)
    (left / "stage_2_train" / "ID_000000000.dcm").write_bytes(b"half")
    marker = json.loads((own / MARKER).read_text())
    (left / MARKER).write_text(json.dumps({key: marker[key] for key in ("generator", "version", "settings")}))
    make_competition(target, **competition.settings)
    assert not left.exists()
    assert digests(target) == digests(competition.folder)


@pytest.mark.parametrize(("name", "value"), [("patients", 7), ("slices", 3), ("size", 16), ("seed", -1)])
def test_too_little_is_a_users_mistake_that_names_the_option(tmp_path, name, value):
    with pytest.raises(UserError, match=f"--{name} {value}"):
        make_competition(tmp_path / "input", **{**SETTINGS, name: value})
    assert not (tmp_path / "input").exists()


def test_the_command_reports_and_warns_of_nothing(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "src.sample.make_competition"]
    options = ["--patients", "8", "--slices", "4", "--size", "32", "--difficulty", "easy", "--seed", "0"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "input"), *options], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8 patients" in done.stdout
    assert "arning" not in done.stderr
    mistake = subprocess.run(
        [*command, "--output", str(tmp_path), *options], capture_output=True, text=True, cwd=root, check=False
    )
    assert mistake.returncode == 2
    assert mistake.stderr.startswith("error: ")
    assert mistake.stderr.count("\n") == 1
