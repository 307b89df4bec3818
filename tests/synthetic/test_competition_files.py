"""The files of a generated competition: tables, headers, pixels and oddities."""

import warnings

import numpy as np
import pandas as pd
import pydicom
import pytest

from src.labels import LABELS, SUBTYPES, split_row_ids
from src.synthetic.easy.scan import Scan
from src.synthetic.make_competition import MARKER
from src.synthetic.plan import MIN_PATIENTS, make_plan

TAGS = {
    "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter",
    "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelData",
}  # fmt: skip


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


# ---- what is in the folder


def test_layout_is_kaggles(competition):
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


def test_tables_hold_six_rows_for_each_image_in_kaggles_order(competition):
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


def test_any_is_the_maximum_of_the_subtypes(competition):
    for name in ("train", "test_truth"):
        labels = competition.labels(name)
        np.testing.assert_array_equal(labels["any"], labels[list(SUBTYPES)].max(axis=1))
    train = competition.labels("train")
    if competition.settings["difficulty"] == "easy":  # hard mode fractions them out as the competition does
        assert (train[list(LABELS)].sum() > 0).all()
    assert set(train["any"]) == {0, 1}
    fractions = pd.concat([train, competition.labels("test_truth")])[list(LABELS)].mean()
    assert fractions.to_dict() == pytest.approx(competition.summary.prevalence, abs=1e-4)


# ---- headers


def test_headers_hold_the_competitions_tags_and_no_others(competition):
    for split in ("train", "test"):
        for name, dataset in competition.whole(split).items():
            assert {element.keyword for element in dataset} == TAGS
            assert dataset.SOPInstanceUID == name
            assert dataset.file_meta.MediaStorageSOPClassUID == pydicom.uid.CTImageStorage
            assert dataset.StudyID == ""
            assert len(dataset.PixelData) == 2 * dataset.Rows * dataset.Columns
            assert dataset.HighBit == dataset.BitsStored - 1
            assert dataset.RescaleSlope == 1


def test_geometry_is_a_stack_along_z(competition):
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
def test_headers_and_anatomy_agree_on_distances(tilted, settings):
    """Between any two pixels of a series the header's geometry and the head's frame measure the same distance."""
    plan = make_plan(**settings)
    study = next(study for study in plan.studies if study.tilted == tilted)
    scan = Scan.of(study, settings["seed"])
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


def test_order_of_names_says_nothing_of_z(competition):
    ordered = [
        [d.SOPInstanceUID for d in datasets] == sorted(d.SOPInstanceUID for d in datasets)
        for datasets in competition.series("train").values()
    ]
    assert np.mean(ordered) < 0.5


def test_a_series_has_one_patient_study_and_encoding(competition):
    twins = competition.summary.oddities["identical pixels under two patients"]
    for datasets in competition.series("train").values():
        own = [d for d in datasets if d.SOPInstanceUID != twins[1]]
        assert len({(d.PatientID, d.StudyInstanceUID) for d in datasets}) == 1
        assert len({(d.BitsStored, d.RescaleIntercept, d.Rows, d.Columns, str(d.WindowCenter)) for d in own}) == 1


# ---- pixels


def test_hu_are_a_heads_in_every_encoding(competition, settings):
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
                assert np.median(hu[1, settings["size"] // 3 : -settings["size"] // 3]) < -900, "air"


def test_no_two_slices_share_their_noise(competition):
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


def test_encodings_look_as_in_the_competition(competition):
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


def test_bleeding_slices_hold_more_blood_than_others(competition):
    """Fresh blood is what brain is not: a slice's fraction of pixels of 60..85 HU tells bleeds apart in easy mode."""
    if competition.settings["difficulty"] != "easy":
        return  # small and old bleeds, calcium and dense vessels are what hard mode is for
    labels = pd.concat([competition.labels("train"), competition.labels("test_truth")])
    fraction = {}
    for split in ("train", "test"):
        for name, dataset in competition.whole(split).items():
            if name in competition.summary.oddities["constant slice"]:
                continue
            hu = hounsfield(dataset)
            fraction[name] = ((hu > 60) & (hu < 85)).sum() / ((hu > 0) & (hu < 90)).sum()
    fractions = pd.Series(fraction)
    bleeding = labels.loc[fractions.index, "any"] == 1
    assert fractions[bleeding].median() > 2 * fractions[~bleeding].median()


# ---- oddities


def test_truncated_files_end_within_their_pixels(competition):
    train, test = competition.summary.oddities["truncated file"]
    for split, name in (("train", train), ("test", test)):
        paths = competition.images(split)
        dataset = competition.read(paths[name], stop_before_pixels=True)
        assert dataset.SOPInstanceUID == name
        assert paths[name].stat().st_size < 2 * dataset.Rows * dataset.Columns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises((ValueError, EOFError, AttributeError)):
                _ = pydicom.dcmread(paths[name]).pixel_array


def test_one_slice_is_constant_and_has_no_label(competition):
    whole = competition.whole("train")
    constant = [name for name, d in whole.items() if len(set(d.PixelData[::2])) == len(set(d.PixelData[1::2])) == 1]
    assert constant == competition.summary.oddities["constant slice"]
    assert competition.labels("train").loc[constant[0]].sum() == 0


def test_one_pair_of_patients_shares_a_slice_and_its_labels(competition):
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


def test_two_images_have_their_rows_twice(competition):
    table = pd.read_csv(competition.folder / "stage_2_train.csv")
    again = table[table["ID"].duplicated()]
    assert len(again) == 12
    assert set(split_row_ids(again["ID"])[0]) == set(competition.summary.oddities["duplicate CSV rows"])
    assert table.groupby("ID")["Label"].nunique().max() == 1
    assert len(pd.read_csv(competition.folder / "stage_2_test_truth.csv")) == 6 * len(competition.images("test"))


def test_patients_recur(competition):
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


def test_one_series_is_not_square(competition, settings):
    narrow = {
        str(d.SeriesInstanceUID): (d.Rows, d.Columns)
        for split in ("train", "test")
        for d in competition.whole(split).values()
        if d.Rows != d.Columns
    }
    assert list(narrow) == competition.summary.oddities["series not square"]
    assert list(narrow.values()) == [(settings["size"], round(settings["size"] * 404 / 512))]


def test_both_transfer_syntaxes_and_both_kinds_of_window_occur(competition):
    whole = competition.whole("train").values()
    assert {d.file_meta.TransferSyntaxUID.name for d in whole} == {
        "Explicit VR Little Endian",
        "Implicit VR Little Endian",
    }
    assert {d["WindowCenter"].VM for d in whole} == {1, 2}
    several = next(d for d in whole if d["WindowCenter"].VM == 2)
    assert [value.original_string for value in several.WindowWidth] == ["00080", "00080"]
