from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import read_header
from src.errors import UserError
from src.files.label_csv import pivot_labels
from src.files.layout import Layout
from src.files.tables import read_table
from src.labels import LABELS
from src.preprocess.dicom_to_dataframe import dicom_to_dataframe

Write = Callable[..., Path]
LABELLED = np.array([[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]])


def test_a_row_for_each_id_of_the_csv(write_labels: Write, preprocessed: Layout) -> None:
    table = read_table(preprocessed.table("train"), [], step="")
    ids, _ = pivot_labels(preprocessed.root / "input/stage_2_train.csv", test=False)
    assert table["ID"].tolist() == ids["ID"].tolist()
    assert set(LABELS) <= set(table.columns)
    assert (table["reason"] == "").all()
    assert all(Path(path).is_file() for path in table["path"])
    assert not set(LABELS) & set(read_table(preprocessed.table("test"), [], step="").columns)


def test_order_is_that_of_the_slices_not_of_the_names(preprocessed: Layout) -> None:
    table = read_table(preprocessed.table("train"), [], step="")
    assert table["n_slices"].min() >= 4
    for _, series in table.groupby("SeriesInstanceUID"):
        ordered = series.sort_values("z_index")
        assert ordered["z_index"].tolist() == list(range(len(series)))
        assert (ordered["n_slices"] == len(series)).all()
        assert (np.diff(ordered["z"]) > 0).all()
        heights = [read_header(Path(path)).position[2] for path in ordered["path"]]
        assert (np.diff(heights) > 0).all()


def test_files_that_are_missing_or_broken_keep_their_row(
    write_labels: Write, tmp_path: Path, competition: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = sorted((competition / "input/stage_2_train").glob("*.dcm"))[0]
    (images / source.name).write_bytes(source.read_bytes())
    (images / "ID_bad.dcm").write_text("not DICOM" * 100)
    labels = np.zeros((3, 6), dtype=int)
    table, _ = dicom_to_dataframe(
        write_labels(tmp_path / "l.csv", ["ID_bad", source.stem, "ID_a0"], labels), images, engine="serial"
    )
    assert table["reason"].tolist() == ["not_dicom", "", "missing_file"]
    assert table["z_index"].tolist() == [-1, 0, -1]
    assert table["n_slices"].tolist() == [0, 1, 0]
    assert table["PatientID"].tolist()[0] == ""


def test_slices_of_no_series_are_series_by_themselves(write_labels: Write, tmp_path: Path, competition: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    paths = sorted((competition / "input/stage_2_train").glob("*.dcm"))[:2]
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.SeriesInstanceUID
        dataset.save_as(images / path.name)
    ids = [path.stem for path in paths]
    table, _ = dicom_to_dataframe(write_labels(tmp_path / "l.csv", ids, np.zeros((2, 6))), images, engine="serial")
    assert table["SeriesInstanceUID"].tolist() == ids
    assert table["n_slices"].tolist() == [1, 1]


def test_missing_folder_and_wrong_folder(write_labels: Write, tmp_path: Path) -> None:
    csv = write_labels(tmp_path / "l.csv", ["ID_b", "ID_a"], LABELLED)
    with pytest.raises(UserError, match="images is missing; expected the folder of the slices"):
        dicom_to_dataframe(csv, tmp_path / "images")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="holds none of the 2 slices"):
        dicom_to_dataframe(csv, tmp_path / "images", engine="serial")
    with pytest.raises(UserError, match=r"x.csv is missing"):
        dicom_to_dataframe(tmp_path / "x.csv", tmp_path / "images")


def test_the_real_head_ct(write_labels: Write, tmp_path: Path, real_head_ct: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    # shuffled hexadecimal names, as in the competition
    numbers = np.random.default_rng(0).permutation(28)
    for i, path in zip(numbers, sorted(real_head_ct.glob("*.dcm")), strict=True):
        (images / f"ID_{i:09x}.dcm").symlink_to(path)
    ids = [f"ID_{i:09x}" for i in range(28)]
    csv = write_labels(tmp_path / "s.csv", ids, np.full((28, 6), 0.5))
    table, _ = dicom_to_dataframe(csv, images, test=True, engine="loky", jobs=2)
    assert table["n_slices"].unique().tolist() == [28]
    # the scanner's numbering runs along the head; so must z_index, whatever the names
    order = table.set_index("ID").loc[[f"ID_{i:09x}" for i in numbers], "z_index"].to_numpy()
    assert np.array_equal(order, np.arange(28)) or np.array_equal(order, np.arange(28)[::-1])


def test_a_localizer_in_a_series_is_no_neighbour(write_labels: Write, tmp_path: Path, competition: Path) -> None:
    table = read_table(Layout(competition).table("train"), [], step="")
    uid = table["SeriesInstanceUID"].iloc[0]
    slices = table[table["SeriesInstanceUID"] == uid].sort_values("z_index")
    images = tmp_path / "images"
    images.mkdir()
    for slice_id, path in zip(slices["ID"], slices["path"], strict=True):
        dataset = pydicom.dcmread(path)
        if slice_id == slices["ID"].iloc[2]:
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        dataset.save_as(images / f"{slice_id}.dcm")
    csv = write_labels(tmp_path / "l.csv", slices["ID"].tolist(), np.zeros((len(slices), 6)))
    found, _ = dicom_to_dataframe(csv, images, engine="serial")
    found = found.set_index("ID").loc[slices["ID"]]
    assert found["SeriesInstanceUID"].tolist() == [f"{uid}~2" if i == 2 else uid for i in range(len(slices))]
    assert found["z_index"].tolist() == [0, 1, 0, *range(2, len(slices) - 1)]
    assert found["n_slices"].tolist() == [1 if i == 2 else len(slices) - 1 for i in range(len(slices))]
