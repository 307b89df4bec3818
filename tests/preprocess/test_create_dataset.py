import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.dicom import UnreadableDicom, read_hounsfield
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table
from src.preprocess.create_dataset import check_rejected, create_dataset


@pytest.fixture
def table(preprocessed: Layout) -> pd.DataFrame:
    return read_table(preprocessed.table("train"), [], made_by="")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_store_holds_rounded_and_clipped_hu(preprocessed: Layout, table: pd.DataFrame) -> None:
    store = ImageStore(preprocessed.store("train"))
    for row in table.iloc[::7].itertuples():
        if row.ID in store:
            expected = np.clip(np.rint(read_hounsfield(Path(row.path))), -200, 300)
            np.testing.assert_array_equal(store.hounsfield(row.ID), expected)


def test_each_slice_is_stored_or_rejected(preprocessed: Layout, table: pd.DataFrame) -> None:
    index = ImageStore(preprocessed.store("train")).index
    rejected = pd.read_csv(preprocessed.store("train") / "rejected.csv")
    assert sorted([*index["ID"], *rejected["ID"]]) == sorted(table["ID"])
    assert rejected["reason"].tolist() == ["truncated"]
    assert rejected.columns.tolist() == ["ID", "path", "reason", "message"]


def test_slices_of_a_series_lie_in_z_order(preprocessed: Layout, table: pd.DataFrame) -> None:
    index = ImageStore(preprocessed.store("train")).index.merge(table[["ID", "z_index", "SeriesInstanceUID"]], on="ID")
    assert index.groupby("file")["SeriesInstanceUID"].nunique().eq(1).all()
    for _, series in index.groupby("file"):
        ordered = series.sort_values("position")
        assert ordered["z_index"].is_monotonic_increasing
        assert ordered["position"].tolist() == list(range(len(series)))


def test_odd_slices_are_known_by_their_numbers(preprocessed: Layout) -> None:
    index = ImageStore(preprocessed.store("train")).index
    assert (index["rows"] != index["columns"]).any()  # the series that is not square
    assert index.loc[index["pixel_hash"].duplicated(keep=False), "ID"].size == 2  # one slice under two patients
    constant = index.loc[index["brain_share"] == 0, "ID"]
    hu = ImageStore(preprocessed.store("train")).hounsfield(constant.iloc[0])
    assert hu.min() == hu.max()


def test_engines_give_the_same_bytes(tmp_path: Path, table: pd.DataFrame) -> None:
    create_dataset(table, tmp_path / "serial", engine="serial")
    create_dataset(table, tmp_path / "loky", engine="loky", jobs=2)
    assert _files(tmp_path / "serial") == _files(tmp_path / "loky")


def test_an_interrupted_run_goes_on(tmp_path: Path, table: pd.DataFrame) -> None:
    create_dataset(table, tmp_path / "whole", engine="serial")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    files = sorted((tmp_path / "half").glob("*.b2nd"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:500])
    (tmp_path / "half/index.parquet").unlink()
    kept = files[2].stat().st_mtime_ns
    create_dataset(table, tmp_path / "half", engine="serial")
    assert _files(tmp_path / "half") == _files(tmp_path / "whole")
    assert files[2].stat().st_mtime_ns == kept  # not written again


def test_a_slice_that_can_be_read_at_last_is_taken_in(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.preprocess import create_dataset as module

    real, series = module.read_stored, table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]

    def without_a_decoder(path: Path):
        if path == Path(series["path"].iloc[0]):
            raise UnreadableDicom("undecodable", "no decoder")
        return real(path)

    monkeypatch.setattr(module, "read_stored", without_a_decoder)
    index, rejected = create_dataset(series, tmp_path, engine="serial")
    assert (len(index), rejected["reason"].tolist()) == (len(series) - 1, ["undecodable"])
    monkeypatch.setattr(module, "read_stored", real)
    index, rejected = create_dataset(series, tmp_path, engine="serial")
    assert sorted(index["ID"]) == sorted(series["ID"])
    assert len(rejected) == 0


def test_a_changed_file_is_stored_anew(tmp_path: Path, table: pd.DataFrame) -> None:
    series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]].copy()
    for i, path in enumerate(series["path"]):
        copy = tmp_path / Path(path).name
        shutil.copy(path, copy)
        series.iloc[i, series.columns.get_loc("path")] = str(copy)
    first, _ = create_dataset(series, tmp_path / "store", engine="serial")
    changed, other = Path(series["path"].iloc[0]), Path(series["path"].iloc[1])
    changed.write_bytes(other.read_bytes() + b"\0\0")
    second, _ = create_dataset(series, tmp_path / "store", engine="serial")
    assert (first["pixel_hash"] != second["pixel_hash"]).sum() == 1


def test_a_size_other_than_the_rest_of_its_series(tmp_path: Path, competition: Path, table: pd.DataFrame) -> None:
    square, narrow = (table[table["columns"] == columns].iloc[0] for columns in sorted(table["columns"].unique())[::-1])
    mixed = pd.DataFrame([square, narrow]).assign(SeriesInstanceUID="ID_mixed", z_index=[0, 1])
    index, rejected = create_dataset(mixed, tmp_path, engine="serial")
    assert len(rejected) == 0
    assert index["file"].nunique() == 2
    assert ImageStore(tmp_path).hounsfield(narrow["ID"]).shape == (narrow["rows"], narrow["columns"])


def test_a_file_changed_since_the_table_is_rejected(tmp_path: Path, table: pd.DataFrame) -> None:
    wrong = table.iloc[:1].assign(rows=table["rows"].iloc[0] + 1)
    index, rejected = create_dataset(wrong, tmp_path, engine="serial")
    assert len(index) == 0
    assert rejected["reason"].tolist() == ["bad_value"]


def test_many_rejects_fail_the_run() -> None:
    rejects = pd.DataFrame({"reason": ["truncated"] * 9 + ["not_dicom"]})
    check_rejected(rejects.iloc[:9], 10, 0.01)  # fewer than ten never do
    check_rejected(rejects, 1000, 0.01)  # nor does one in a hundred
    with pytest.raises(UserError, match=r"10 of 999 slices were rejected \(1 not_dicom, 9 truncated\), more than 1.0%"):
        check_rejected(rejects, 999, 0.01)
    check_rejected(rejects, 999, 0.02)
