import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.dicom import UnreadableDicom, read_hounsfield
from src.dicom.sources import find_slices, source_columns
from src.errors import UserError
from src.files import image_store
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.tables import write_table
from src.preprocess import create_dataset as module
from src.preprocess.create_dataset import check_rejected, create_dataset, verify

Contents = Callable[[Path], dict[str, bytes]]


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


@pytest.mark.parametrize(("engine", "jobs"), [("loky", 2), ("dask", 2)])
def test_every_engine_gives_the_same_bytes(
    tmp_path: Path, table: pd.DataFrame, contents: Contents, engine: str, jobs: int
) -> None:
    create_dataset(table, tmp_path / "serial", engine="serial")
    create_dataset(table, tmp_path / engine, engine=engine, jobs=jobs)
    assert contents(tmp_path / "serial") == contents(tmp_path / engine)


def test_an_interrupted_run_goes_on(tmp_path: Path, table: pd.DataFrame, contents: Contents) -> None:
    create_dataset(table, tmp_path / "whole", engine="serial")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    files = sorted((tmp_path / "half").glob("*.b2nd"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:500])
    (tmp_path / "half/index.parquet").unlink()
    kept = files[2].stat().st_mtime_ns
    create_dataset(table, tmp_path / "half", engine="serial")
    assert contents(tmp_path / "half") == contents(tmp_path / "whole")
    assert files[2].stat().st_mtime_ns == kept  # not written again


def test_a_slice_that_can_be_read_at_last_is_taken_in(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, series = module.read_file, table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]

    def without_a_decoder(path: str):
        if path == series["path"].iloc[0]:
            raise UnreadableDicom("undecodable", "no decoder")
        return real(path)

    monkeypatch.setattr(module, "read_file", without_a_decoder)
    index, rejected = create_dataset(series, tmp_path, engine="serial")
    assert (len(index), rejected["reason"].tolist()) == (len(series) - 1, ["undecodable"])
    monkeypatch.setattr(module, "read_file", real)
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


def test_a_store_of_another_input_says_so(tmp_path: Path, table: pd.DataFrame, contents: Contents) -> None:
    create_dataset(table, tmp_path, engine="serial")
    before = contents(tmp_path)
    gone = table["SeriesInstanceUID"].iloc[0]
    with pytest.raises(UserError, match=rf"holds slices that the table lacks, in 1 files \({gone}.*another input"):
        create_dataset(table[table["SeriesInstanceUID"] != gone], tmp_path, engine="serial")
    assert contents(tmp_path) == before


def test_a_series_that_is_unreadable_by_now_does_not_condemn_the_store(
    tmp_path: Path, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    create_dataset(table, tmp_path, engine="serial")
    one = table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]
    # as dicom_to_dataframe has it once the files of a series are empty
    now = table.assign(
        reason=table["reason"].mask(one, "not_dicom"), SeriesInstanceUID=table["SeriesInstanceUID"].mask(one, "")
    )
    index, rejected = create_dataset(now, tmp_path, engine="serial")
    assert len(index) + len(rejected) == len(table)
    assert f"{table['SeriesInstanceUID'].iloc[0]}_64x64.b2nd is out of date" in capsys.readouterr().err
    assert verify(tmp_path, engine="serial") == index["file"].nunique()


def test_a_store_of_another_format_is_not_mixed_with(
    tmp_path: Path, table: pd.DataFrame, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(image_store, "FORMAT_VERSION", 1)
        create_dataset(table.iloc[:5], tmp_path, engine="serial")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is an image store of format 1"):
        create_dataset(table, tmp_path, engine="serial")
    assert contents(tmp_path) == before


def test_a_newer_slice_is_taken_in_though_its_size_is_the_same(tmp_path: Path, table: pd.DataFrame) -> None:
    two = table[(table["columns"] == 64) & (table["transfer_syntax"] == table["transfer_syntax"].iloc[0])].iloc[:2]
    one = two.iloc[:1].assign(path=str(tmp_path / "slice.dcm"))
    shutil.copy(two["path"].iloc[0], one["path"].iloc[0])
    first, _ = create_dataset(one, tmp_path / "store", engine="serial")
    data = Path(two["path"].iloc[1]).read_bytes()[: Path(one["path"].iloc[0]).stat().st_size]
    Path(one["path"].iloc[0]).write_bytes(data.ljust(Path(one["path"].iloc[0]).stat().st_size, b"\0"))
    later = time.time() + 3600  # from the future, which must not make it new for ever
    os.utime(one["path"].iloc[0], (later, later))
    second, _ = create_dataset(one, tmp_path / "store", engine="serial")
    assert second["pixel_hash"].iloc[0] != first["pixel_hash"].iloc[0]
    (file,) = (tmp_path / "store").glob("*.b2nd")
    written = file.stat().st_ino
    create_dataset(one, tmp_path / "store", engine="serial")
    assert file.stat().st_ino == written


@pytest.mark.parametrize("how", ["folder", "files"])
def test_an_input_that_is_gone_costs_nothing(tmp_path: Path, table: pd.DataFrame, contents: Contents, how: str) -> None:
    (tmp_path / "images").mkdir()
    paths = [str(tmp_path / "images" / Path(path).name) for path in table["path"]]
    for path, copy in zip(table["path"], paths, strict=True):
        shutil.copy(path, copy)
    table = table.assign(path=paths)
    create_dataset(table, tmp_path / "store", engine="serial")
    before = contents(tmp_path / "store")
    (tmp_path / "images").rename(tmp_path / "unmounted")
    if how == "files":
        (tmp_path / "images").mkdir()  # where a disk was mounted
    with pytest.raises(
        UserError, match=r"cannot be seen on|are gone since the table was made, .* is their disk mounted"
    ):
        create_dataset(table, tmp_path / "store", engine="serial")
    assert contents(tmp_path / "store") == before


def test_a_slice_replaced_by_one_of_the_same_size_and_time(tmp_path: Path, table: pd.DataFrame) -> None:
    one = table.iloc[:1].assign(path=str(tmp_path / "slice.dcm"))
    path = Path(one["path"].iloc[0])
    shutil.copy2(table["path"].iloc[0], path)
    first, _ = create_dataset(one, tmp_path / "store", engine="serial")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = path.read_bytes()
    time.sleep(0.05)  # a file system's clock
    path.write_bytes(data[:-2000] + data[-2000:][::-1])
    os.utime(path, ns=times)  # as unzip and rsync do
    second, _ = create_dataset(one, tmp_path / "store", engine="serial")
    assert second["pixel_hash"].iloc[0] != first["pixel_hash"].iloc[0]


def test_a_member_replaced_and_an_archive_touched(tmp_path: Path, table: pd.DataFrame) -> None:
    sizes = table["path"].map(lambda path: Path(path).stat().st_size)
    slices = table[sizes == sizes.mode()[0]].iloc[:3]  # so that only their checksums tell them apart
    assert len(slices) == 3
    archive = tmp_path / "kaggle.zip"

    def pack(order: list[int]) -> pd.DataFrame:
        with zipfile.ZipFile(archive, "w") as file:
            for slice_id, i in zip(slices["ID"], order, strict=True):
                file.write(slices["path"].iloc[i], f"{slice_id}.dcm")
        os.utime(archive, (0, 0))
        return slices.assign(**source_columns(find_slices(archive, slices["ID"].tolist())))

    first, _ = create_dataset(pack([0, 1, 2]), tmp_path / "store", engine="serial")
    written = {path: path.stat().st_ino for path in (tmp_path / "store").glob("*.b2nd")}
    archive.touch()
    create_dataset(slices.assign(**source_columns(find_slices(archive, slices["ID"].tolist()))), tmp_path / "store")
    assert {path: path.stat().st_ino for path in (tmp_path / "store").glob("*.b2nd")} == written
    second, _ = create_dataset(pack([1, 0, 2]), tmp_path / "store", engine="serial")
    assert second["pixel_hash"].tolist() != first["pixel_hash"].tolist()


def test_a_series_that_is_unreadable_now_leaves_no_file(tmp_path: Path, table: pd.DataFrame) -> None:
    one = table.iloc[:1].assign(path=str(tmp_path / "slice.dcm"))
    shutil.copy(table["path"].iloc[0], one["path"].iloc[0])
    create_dataset(one, tmp_path / "store", engine="serial")
    Path(one["path"].iloc[0]).write_bytes(b"nothing")
    index, rejected = create_dataset(one, tmp_path / "store", engine="serial")
    assert (len(index), rejected["reason"].tolist()) == (0, ["not_dicom"])
    assert list((tmp_path / "store").glob("*.b2nd")) == []


def test_a_very_long_series_takes_several_files(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    whole, _ = create_dataset(series, tmp_path / "whole", engine="serial")
    monkeypatch.setattr(module, "PIXELS_PER_FILE", 2 * 64 * 64)
    parts, _ = create_dataset(series, tmp_path / "parts", engine="serial")
    assert parts["file"].nunique() == -(-len(series) // 2)
    for slice_id in series["ID"]:
        np.testing.assert_array_equal(
            ImageStore(tmp_path / "parts").hounsfield(slice_id), ImageStore(tmp_path / "whole").hounsfield(slice_id)
        )
    assert parts["ID"].tolist() == whole["ID"].tolist()


# ---- nothing lost


def test_a_flipped_byte_is_found_named_and_repaired(tmp_path: Path, table: pd.DataFrame, contents: Contents) -> None:
    create_dataset(table, tmp_path, engine="serial")
    before = contents(tmp_path)
    assert verify(tmp_path, engine="serial") == len(list(tmp_path.glob("*.b2nd")))
    damaged, missing = sorted(tmp_path.glob("*.b2nd"))[1:3]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    missing.unlink()
    with pytest.raises(UserError, match=f"2 of .* files of the store are damaged or missing: {damaged}, {missing}"):
        verify(tmp_path, engine="loky", jobs=2)
    create_dataset(table, tmp_path, engine="serial")
    assert contents(tmp_path) == before
    verify(tmp_path, engine="serial")


def test_an_index_of_other_files_is_found(tmp_path: Path, table: pd.DataFrame) -> None:
    index, _ = create_dataset(table, tmp_path, engine="serial")
    write_table(index.assign(pixel_hash=index["pixel_hash"].iloc[::-1].to_numpy()), tmp_path / "index.parquet")
    with pytest.raises(UserError, match=r"index.parquet is not the index of the files beside it"):
        verify(tmp_path, engine="serial")


def test_what_was_rejected_is_verified_too(tmp_path: Path, table: pd.DataFrame) -> None:
    create_dataset(table, tmp_path, engine="serial")
    rejected = tmp_path / "rejected.csv"
    rejected.write_text(rejected.read_text().replace("truncated", "truncatad"))
    with pytest.raises(UserError, match=r"rejected.csv, column reason: truncatad; expected one of missing_file"):
        verify(tmp_path, engine="serial")
    rejected.unlink()
    with pytest.raises(UserError, match=r"rejected.csv is missing"):
        verify(tmp_path, engine="serial")
