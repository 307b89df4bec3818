from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.config import Config
from src.ct.geometry import positions_along_normal
from src.ct.series import slice_gaps
from src.dicom import read_header
from src.errors import UserError
from src.files.layout import Layout
from src.files.tables import write_table
from src.labels import LABELS
from src.sequence.series import (
    EmbeddedSlices,
    SeriesDataset,
    collate,
    position_features,
    read_embedded_slices,
    read_slices_by_series,
)


@pytest.fixture
def read(embedded: Layout, classifier: Config) -> Callable[..., EmbeddedSlices]:
    return lambda split="train", fold=0: read_embedded_slices(classifier, fold, 3, embedded, split)


def _dataset(embedded: EmbeddedSlices, **how: object) -> SeriesDataset:
    return SeriesDataset(embedded.slices, embedded.embeddings, np.arange(len(embedded.slices.starts) - 1), **how)  # type: ignore[arg-type]


def test_slices_are_series_by_series_along_z(preprocessed: Layout) -> None:
    found = read_slices_by_series(preprocessed, "train")
    table = pd.read_parquet(preprocessed.table("train")).set_index("ID").loc[found.ids]
    folds = pd.read_parquet(preprocessed.folds).set_index("ID")["fold"]
    assert set(found.ids) == set(folds.index)
    np.testing.assert_array_equal(found.folds, folds[found.ids])
    np.testing.assert_array_equal(found.targets, table[list(LABELS)])
    np.testing.assert_array_equal(found.z, table["z"])
    for start, stop in zip(found.starts, found.starts[1:], strict=False):
        assert table["SeriesInstanceUID"].iloc[start:stop].nunique() == 1
        assert (np.diff(found.z[start:stop]) > 0).all()
    assert len(found.starts) - 1 == table["SeriesInstanceUID"].nunique()


def test_a_series_in_several_folds_is_refused(preprocessed: Layout, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    (tmp_path / "cache").mkdir()
    for name in ("train", "train.parquet"):
        (tmp_path / "cache" / name).symlink_to(preprocessed.root / "cache" / name)
    folds = pd.read_parquet(preprocessed.folds)
    found = read_slices_by_series(preprocessed, "train")
    last = found.ids[found.starts[1] - 1]  # of the first series
    # a series whose slices name two patients, each in one fold
    folds.loc[folds["ID"] == last, "fold"] = (folds["fold"] + 1) % 5
    folds.loc[folds["ID"] == last, "PatientID"] = "another"
    write_table(folds, layout.folds)
    with pytest.raises(
        UserError, match=f"folds.parquet has series in several folds, with {last}; a second stage needs"
    ) as divided:
        read_slices_by_series(layout, "train")
    assert divided.value.step == "preprocess"


def test_positions_of_uneven_gaps() -> None:
    positions = position_features(np.array([10.0, 14.0, 15.0, 22.0]))
    assert positions.dtype == np.float32
    np.testing.assert_allclose(positions[:, 0], [-1, -1 / 3, -1 / 6, 1], atol=1e-6)
    millimetres = np.expm1(positions[:, 1:])
    np.testing.assert_allclose(millimetres[:, 0], [0, 4, 5, 12], atol=1e-5)  # from the first
    np.testing.assert_allclose(millimetres[:, 1], [12, 8, 7, 0], atol=1e-5)  # to the last
    np.testing.assert_allclose(millimetres[:, 2], [0, 4, 1, 7], atol=1e-5)  # from the previous
    np.testing.assert_allclose(millimetres[:, 3], [4, 1, 7, 0], atol=1e-5)  # to the next
    np.testing.assert_array_equal(position_features(np.array([3.0])), np.zeros((1, 5)))
    np.testing.assert_array_equal(position_features(np.array([3.0, 3.0])), np.zeros((2, 5)))


def test_positions_on_a_real_head_ct(real_head_ct: Path) -> None:
    # tilted by 18.5 degrees: the gaps are those between the planes, not along the table
    headers = [read_header(path) for path in sorted(real_head_ct.glob("*.dcm"))]
    positions = np.array([header.position for header in headers])
    z = np.sort(positions_along_normal(positions, np.array([header.orientation for header in headers])))
    gaps = np.expm1(position_features(z)[:, 4])[:-1]
    np.testing.assert_allclose(gaps, slice_gaps(z), rtol=1e-4)
    assert {round(float(gap), 1) for gap in gaps} == {1.1, 4.0, 7.0}
    assert np.diff(np.sort(positions[:, 2])).max() == pytest.approx(7.38, abs=0.01)  # what the table moved


def test_a_batch_is_padded_and_knows_what_is_real(read: Callable[..., EmbeddedSlices]) -> None:
    embedded = read()
    dataset = _dataset(embedded)
    lengths = np.diff(embedded.slices.starts)
    long, short = int(lengths.argmax()), int(lengths.argmin())
    batch = collate([dataset[short], dataset[long]])
    assert batch["mask"].sum(dim=1).tolist() == [lengths[short], lengths[long]]
    for i, k in enumerate((short, long)):
        one, n = dataset[k], lengths[k]
        for key in ("embedding", "logits", "positions", "z"):
            torch.testing.assert_close(batch[key][i, :n], one[key])  # type: ignore[literal-required]
            assert not batch[key][i, n:].any()  # type: ignore[literal-required]
    assert batch["index"].tolist() == [*dataset[short]["index"], *dataset[long]["index"]]
    np.testing.assert_array_equal(batch["target"], embedded.slices.targets[batch["index"]])
    rows = batch["logits"][batch["mask"]]  # what a mask takes is in the order of index and target
    np.testing.assert_array_equal(rows, embedded.embeddings.read(0, len(embedded.embeddings))[0][batch["index"]])


def test_shuffled_slices_keep_what_they_are_and_lose_their_position(read: Callable[..., EmbeddedSlices]) -> None:
    embedded = read()
    straight, shuffled = _dataset(embedded), _dataset(embedded, shuffled=True)
    moved = 0
    for k in range(len(straight)):
        one, other = straight[k], shuffled[k]
        order = torch.tensor([one["index"].tolist().index(i) for i in other["index"].tolist()])
        moved += int((order != torch.arange(len(order))).sum())
        for key in ("embedding", "logits", "target"):
            torch.testing.assert_close(other[key], one[key][order])  # type: ignore[literal-required]
        for key in ("positions", "z"):
            torch.testing.assert_close(other[key], one[key])  # type: ignore[literal-required]
        assert other["index"].tolist() == shuffled[k]["index"].tolist()
    assert moved > 0.5 * len(embedded.slices.ids)
    assert any(shuffled[1, k]["index"].tolist() != shuffled[2, k]["index"].tolist() for k in range(len(straight)))


def test_a_slice_whose_z_is_unknown_is_alone(read: Callable[..., EmbeddedSlices]) -> None:
    embedded = read()
    embedded.slices.z[:1] = np.nan
    slices = embedded.slices
    alone = SeriesDataset(
        type(slices)(slices.inputs, slices.z, np.array([0, 1]), slices.targets, slices.folds),
        embedded.embeddings,
        np.array([0]),
    )
    series = alone[0]
    assert all(torch.isfinite(series[key]).all() for key in ("embedding", "positions", "z"))  # type: ignore[literal-required]


def test_the_networks_of_a_fold_are_known_by_what_they_saw(
    read: Callable[..., EmbeddedSlices], preprocessed: Layout
) -> None:
    patients = pd.read_parquet(preprocessed.folds).set_index("ID")
    for fold in (0, 1):
        embedded = read("train", fold)
        ids = np.array(embedded.slices.ids)
        unseen = patients.loc[ids[embedded.unseen]]
        assert set(unseen["fold"]) == {fold}
        assert not set(unseen["PatientID"]) & set(patients.loc[ids[~embedded.unseen], "PatientID"])
        assert read("test", fold).unseen.all()
        both = np.concatenate([embedded.series(unseen=True), embedded.series(unseen=False)])
        assert sorted(both) == list(range(len(embedded.slices.starts) - 1))
