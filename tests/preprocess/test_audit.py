import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.layout import Layout
from src.files.tables import read_table, write_table
from src.labels import LABELS
from src.preprocess.audit import AuditedSplit, audit, leaks, read_audited_split, report

REJECTED = pd.DataFrame({"ID": ["ID_r", "ID_s", "ID_t"], "reason": ["truncated", "not_dicom", "truncated"]})


def _slices(n: int, **columns: object) -> pd.DataFrame:
    """n slices without any fault, each of its own patient, study, series and pixels."""
    numbers = [str(i) for i in range(n)]
    sound = {
        "ID": [f"ID_{i}" for i in numbers],
        "PatientID": [f"p{i}" for i in numbers],
        "StudyInstanceUID": [f"st{i}" for i in numbers],
        "SeriesInstanceUID": [f"se{i}" for i in numbers],
        "z": np.arange(n, dtype=float),
        **dict.fromkeys(("position_x", "row_cosine_x", "row_spacing"), 1.0),
        "pixel_hash": [f"h{i}" for i in numbers],
        "brain_share": 0.3,
        "fold": np.arange(n) % 2,
        **dict.fromkeys(LABELS, 0),
    }
    return pd.DataFrame({**sound, **columns})


def _audit(train: pd.DataFrame, test: pd.DataFrame | None = None) -> dict:
    other = _slices(2).add_suffix("").replace(r"^(p|st|se|h)", r"x\1", regex=True)
    return audit(AuditedSplit(train, REJECTED), AuditedSplit(other if test is None else test, REJECTED.iloc[:0]))


def test_sound_data() -> None:
    found = _audit(_slices(4))
    assert leaks(found) == ""
    for part in ("between_folds", "between_train_and_test"):
        assert all(shared == {"count": 0, "examples": []} for shared in found[part].values())
    assert not any(found["labels"].values())
    assert found["series"]["train"] == {
        "series": 4, "with_missing_positions": 0, "with_duplicate_positions": 0, "with_gaps": 0,
        "of_several_patients": 0, "set_apart": 0,
    }  # fmt: skip
    assert found["rejected"] == {"train": {"truncated": 2, "not_dicom": 1}, "test": {}}


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("PatientID", ["p", "p", "q", "r"], "1 patients (p)"),
        ("StudyInstanceUID", ["a", "b", "c", "b"], ""),  # both in fold 1
        ("StudyInstanceUID", ["a", "b", "b", "c"], "1 studies (b)"),
        ("pixel_hash", ["h", "h", "g", "g"], "2 images (g, h)"),
        ("StudyInstanceUID", ["", "", "", ""], ""),  # an absent tag says nothing
    ],
)
def test_leaks_between_folds(column: str, values: list[str], expected: str) -> None:
    assert leaks(_audit(_slices(4, **{column: values}))) == expected


def test_nearly_brainless_images_leak_nothing() -> None:
    assert leaks(_audit(_slices(4, pixel_hash="air", brain_share=[0.3, 0.001, 0.0, 0.0]))) == ""


def test_what_train_and_test_share() -> None:
    test = _slices(3, PatientID=["p0", "new", "p3"], StudyInstanceUID=["", "x", "y"], pixel_hash=["h1", "u", "v"])
    shared = _audit(_slices(4), test)["between_train_and_test"]
    assert shared["patients"] == {"count": 2, "examples": ["p0", "p3"]}
    assert shared["studies"]["count"] == 0
    assert shared["images"] == {"count": 1, "examples": ["h1"]}


def test_labels_that_contradict_each_other() -> None:
    table = _slices(6, pixel_hash=["h", "h", "g", "g", "x", "y"])
    table.loc[0, ["any", "subdural"]] = 1  # its twin has none
    table.loc[4, "any"] = 1
    table.loc[5, "epidural"] = 1
    assert _audit(table)["labels"] == {
        "identical_images": 2, "identical_images_with_other_labels": 1, "any_without_subtype": 1,
        "subtype_without_any": 1,
    }  # fmt: skip


def test_series_with_gaps_and_doubles() -> None:
    table = _slices(
        12,
        SeriesInstanceUID=list("aabbbccddddd"),
        z=[1, np.nan, 5.0, 5.0004, 5.0008, 3.0, 3.1, 10, 20, 40, 30, 60],  # d lacks the slice at 50
        PatientID=list("ppqqqrsttttt"),
    )
    assert _audit(table)["series"]["train"] == {
        "series": 4, "with_missing_positions": 1, "with_duplicate_positions": 1, "with_gaps": 1,
        "of_several_patients": 1, "set_apart": 0,
    }  # fmt: skip


def test_absent_geometry_and_slices_set_apart_are_counted() -> None:
    table = _slices(4, position_x=[1, np.nan, np.nan, 1], row_spacing=[np.nan, 1, 1, 1])
    table["SeriesInstanceUID"] = ["1.2", "1.2", "1.2~2", "1.3"]
    found = _audit(table)
    assert found["series"]["train"]["set_apart"] == 1
    assert found["slices_without"]["train"] == {"position": 2, "orientation": 0, "pixel spacing": 1}
    text = report(found)
    assert "1 set apart as not parallel to the rest; slices without position 2, orientation 0, pixel spacing 1" in text


def test_prevalence_by_fold() -> None:
    table = _slices(4)
    table.loc[[0, 1, 2], "any"] = 1
    found = _audit(table)
    assert {fold: row["any"] for fold, row in found["prevalence"].items()} == {"0": 1.0, "1": 0.5, "all": 0.75}
    text = report(found)
    assert "rejected slices: 1 not_dicom, 2 truncated" in text
    assert "75.00" in text


def test_the_tiny_competition(preprocessed: Layout) -> None:
    found = audit(read_audited_split(preprocessed, "train"), read_audited_split(preprocessed, "test"))
    assert leaks(found) == ""
    assert found["between_train_and_test"]["patients"]["count"] == 1  # the generator makes one recur
    assert found["labels"]["identical_images"] == 1
    assert found["rejected"]["train"] == {"truncated": 1}


def test_a_leak_is_kept_and_fails_the_run(preprocessed: Layout, tmp_path: Path, repository: Path, python: str) -> None:
    (tmp_path / "cache").mkdir()
    for name in ("train", "test", "train.parquet", "test.parquet"):
        (tmp_path / "cache" / name).symlink_to(preprocessed.root / "cache" / name)
    folds = read_table(preprocessed.folds, [], step="")
    folds.loc[0, "fold"] = (folds.loc[0, "fold"] + 1) % 5
    write_table(folds, tmp_path / "cache/folds.parquet")
    result = subprocess.run(
        [python, "-m", "src.preprocess.audit", "--root", str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    patient = folds.loc[0, "PatientID"]
    assert result.stderr.startswith(f"error: in several folds: 1 patients ({patient})")
    assert result.stderr.endswith("folds.parquet; run sh bin/preprocess.sh\n")
    assert patient in json.loads((tmp_path / "cache/audit.json").read_text())["between_folds"]["patients"]["examples"]


def test_a_table_and_a_store_of_different_inputs_are_told(preprocessed: Layout, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for name in ("train", "folds.parquet"):
        (tmp_path / "cache" / name).symlink_to(preprocessed.root / "cache" / name)
    table = read_table(preprocessed.table("train"), [], step="")
    write_table(table.iloc[:-4], tmp_path / "cache/train.parquet")
    with pytest.raises(
        UserError, match=r"train has [34] slices that .*train.parquet lacks, .* different inputs"
    ) as told:
        read_audited_split(Layout(tmp_path), "train")
    assert told.value.step == "preprocess"
