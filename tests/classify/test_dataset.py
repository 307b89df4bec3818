import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from src.classify.augment import Augmentation
from src.classify.dataset import EpochSampler, PlainSlices, TrainingSlices
from src.classify.stacks import find_stacks, pad_to_square
from src.config import Config, WindowJitterConf
from src.ct.hounsfield import to_unit
from src.files.images import ImageStore
from src.files.layout import Layout


@pytest.fixture
def ids(preprocessed: Layout) -> list[str]:
    return ImageStore(preprocessed.store("train")).index["ID"].tolist()


def _training(preprocessed: Layout, ids: list[str], config: Config) -> TrainingSlices:
    targets = np.arange(len(ids) * 6).reshape(-1, 6) % 2
    augmentation = Augmentation(config.augment, config.image_size)
    stacks = find_stacks(preprocessed, "train", config.neighbours, ids)
    return TrainingSlices(stacks, targets, augmentation, config.window_jitter, len(config.windows), config.seed)


def test_plain_slices_are_the_stores(preprocessed: Layout, ids: list[str]) -> None:
    store = ImageStore(preprocessed.store("train"))
    at_size = PlainSlices(find_stacks(preprocessed, "train", 0, ids), 64)
    smaller = PlainSlices(find_stacks(preprocessed, "train", 0, ids), 32)
    for i, slice_id in enumerate(ids):
        square = pad_to_square(to_unit(store.hounsfield(slice_id)))
        index, image = at_size[i]
        assert index == i
        np.testing.assert_array_equal(image[0].numpy(), square)
        expected = cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(smaller[i][1][0].numpy(), expected)


def test_chance_belongs_to_seed_epoch_and_slice(preprocessed: Layout, ids: list[str], config: Config) -> None:
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


def test_an_epoch_has_every_slice_once_in_its_own_order() -> None:
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert sorted(first) == [(1, i) for i in range(10)]
    assert list(sampler) == first
    sampler.epoch = 2
    assert sorted(sampler) == [(2, i) for i in range(10)]
    assert [i for _, i in sampler] != [i for _, i in first]


def test_the_sampler_goes_on_in_the_middle(preprocessed: Layout) -> None:
    sampler = EpochSampler(10, seed=3)
    whole = list(sampler)
    sampler.first = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == 6
