from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from src.classify.dataset import EvalDataset, LabelledSlices, TrainingDataset, read_fold_split
from src.classify.inputs import find_inputs, pad_to_square
from src.config import Config, WindowJitterConf
from src.ct.hounsfield import to_unit
from src.errors import UserError
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.tables import read_table, write_table
from src.labels import LABELS
from src.train.loader import EpochSampler


@pytest.fixture
def ids(preprocessed: Layout) -> list[str]:
    return ImageStore(preprocessed.store("train")).index["ID"].tolist()


def _training(preprocessed: Layout, ids: list[str], config: Config) -> TrainingDataset:
    targets = np.arange(len(ids) * 6).reshape(-1, 6) % 2
    inputs = find_inputs(preprocessed, "train", config.neighbours, ids)
    return TrainingDataset(LabelledSlices(inputs, targets), config)


def test_validation_slices_cover_the_store_once_and_share_no_patient(preprocessed: Layout) -> None:
    patients = read_table(preprocessed.table("train"), [], step="").set_index("ID")["PatientID"]
    validated: list[str] = []
    for fold in range(5):
        training, validation = read_fold_split(preprocessed, fold)
        validated += validation.ids
        assert not set(patients[training.ids]) & set(patients[validation.ids])
        assert len(training.ids) + len(validation.ids) == len(ImageStore(preprocessed.store("train")).index)
    assert sorted(validated) == sorted(ImageStore(preprocessed.store("train")).index["ID"])


def test_targets_are_the_tables(preprocessed: Layout) -> None:
    training, _ = read_fold_split(preprocessed, 0)
    labels = read_table(preprocessed.table("train"), [], step="").set_index("ID")[list(LABELS)]
    np.testing.assert_array_equal(training.targets, labels.loc[training.ids])
    assert training.targets.any()


def test_mistakes_are_named(preprocessed: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no fold 7; .* has 0, 1, 2, 3, 4"):
        read_fold_split(preprocessed, 7)
    with pytest.raises(UserError, match=r"folds.parquet is missing") as missing:
        read_fold_split(Layout(tmp_path), 0)
    assert missing.value.step == "preprocess"
    other = Layout(tmp_path)
    write_table(read_table(preprocessed.table("train"), [], step=""), other.table("train"))
    other.store("train").symlink_to(preprocessed.store("train"))
    folds = read_table(preprocessed.folds, [], step="")
    stranger = pd.DataFrame({"ID": ["ID_fff"], "PatientID": ["P"], "fold": [0]})
    write_table(pd.concat([folds, stranger]), other.folds)
    with pytest.raises(UserError, match=r"has 1 slices that .* lacks: ID_fff") as strange:
        read_fold_split(other, 0)
    assert strange.value.step == "preprocess"


def test_slices_for_evaluation_are_the_stores(
    preprocessed: Layout, ids: list[str], make_config: Callable[..., Config]
) -> None:
    store = ImageStore(preprocessed.store("train"))
    at_size, smaller = (
        EvalDataset(find_inputs(preprocessed, "train", 0, ids), make_config(f"image_size={size}")) for size in (64, 32)
    )
    for i, slice_id in enumerate(ids):
        square = pad_to_square(to_unit(store.hounsfield(slice_id))[..., None])[..., 0]
        index, image = at_size[i]
        assert index == i
        np.testing.assert_array_equal(image[0].numpy(), square)
        expected = cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(smaller[i][1][0].numpy(), expected)


def test_randomness_depends_on_seed_epoch_and_slice(preprocessed: Layout, ids: list[str], config: Config) -> None:
    one, two = _training(preprocessed, ids, config), _training(preprocessed, ids, config)
    first = one[1, 3]
    assert {key: tuple(first[key].shape) for key in ("image", "target", "jitter")} == {  # type: ignore[literal-required]
        "image": (1, 32, 32),
        "target": (6,),
        "jitter": (3, 2),
    }
    two[1, 0], two[2, 3]  # what came before does not matter
    again = two[1, 3]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["jitter"], again["jitter"])
    assert not torch.equal(one[2, 3]["image"], first["image"])
    reseeded = _training(preprocessed, ids, config.model_copy(update={"seed": 1}))
    assert not torch.equal(reseeded[1, 3]["image"], first["image"])


def test_workers_change_nothing(preprocessed: Layout, ids: list[str], config: Config) -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        dataset = _training(preprocessed, ids, config)
        loader = DataLoader(dataset, sampler=EpochSampler(len(ids), seed=0), batch_size=8, num_workers=workers)
        return [batch["image"] for batch in loader]

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone, shared)


def test_jitter_stays_within_the_conf(preprocessed: Layout, ids: list[str], config: Config) -> None:
    limits = WindowJitterConf(level=3, width=0.1)
    dataset = _training(preprocessed, ids, config.model_copy(update={"window_jitter": limits}))
    jitter = torch.stack([dataset[1, i]["jitter"] for i in range(20)])
    assert jitter[..., 0].abs().max() <= 3
    assert jitter[..., 1].abs().max() <= 0.1
    assert jitter[..., 0].abs().max() > 2
    assert jitter[..., 1].abs().max() > 0.07
