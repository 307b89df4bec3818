from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import explain
from benchmarks.heads import generate
from src.classify.network import build_network
from src.config import Config
from src.ct.series import Series
from src.detector import Detector
from src.detector.explain import SURE, activation_map, mean_map
from src.labels import LABELS


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/test_efficientnet"])
def test_the_mean_of_a_map_is_the_logit(make_config: Callable[..., Config], architecture: str) -> None:
    network = build_network(make_config(f"network.architecture={architecture}", "image_size=64")).eval()
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    local = activation_map(network, images)
    assert local is not None
    assert local.shape[:2] == (2, 6)
    assert local.shape[2] > 1
    torch.testing.assert_close(local.mean(dim=(2, 3)), network(images), rtol=1e-4, atol=1e-4)


def test_a_map_is_where_the_features_are(make_config: Callable[..., Config]) -> None:
    torch.manual_seed(0)
    network = build_network(make_config("image_size=64")).eval()
    maps = []
    for column in (0, 32):
        images = torch.zeros(1, 1, 64, 64)
        images[:, :, 16:48, column : column + 32] = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
        maps.append(activation_map(network, images))
    left, right = (each - activation_map(network, torch.zeros(1, 1, 64, 64)) for each in maps)  # type: ignore[operator]
    half = left.shape[-1] // 2
    # of the fraction of the change in the left half; padding makes a network that is not trained see more on the right
    fractions = [float(each[..., :half].abs().sum() / each.abs().sum()) for each in (left, right)]
    assert fractions[0] > 3 * fractions[1]


def test_networks_without_maps_say_so(make_config: Callable[..., Config]) -> None:
    # a transformer's features are no map; the second has layers between its pool and its last one
    for architecture in ("timm/test_vit", "timm/test_mambaout"):
        network = build_network(make_config(f"network.architecture={architecture}", "image_size=160")).eval()
        assert activation_map(network, torch.rand(1, 1, 160, 160)) is None


def test_a_map_is_relative_to_its_slice_but_dark_without_evidence() -> None:
    sure, unsure = torch.full((1, 6, 2, 2), -3.0), torch.full((1, 6, 2, 2), -3.0)
    sure[..., 0, 1], sure[..., 1, 1] = 40.0, 10.0
    unsure[..., 0, 1] = 1.0
    shown = mean_map([sure], 2)
    np.testing.assert_allclose(shown[0, 0], [[0, 1], [0, 0.25]])  # neither saturated nor below 0
    np.testing.assert_allclose(mean_map([unsure], 2)[0, 0], [[0, 1 / SURE], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(mean_map([sure, unsure], 2)[0, 0], [[0, 1], [0, 3.5 / 20.5]], rtol=1e-6)
    assert mean_map([sure], 8).shape == (1, 6, 8, 8)


def test_a_detector_explains_a_series_in_its_order(detector: Detector, test_series: list[Series]) -> None:
    series = test_series[0]
    maps = detector.activation_maps(series)
    assert maps is not None
    assert maps.shape[:2] == (len(series), 6)
    assert ((maps >= 0) & (maps <= 1)).all()
    turned = Series(series.pixels[::-1], series.z[::-1], series.ids[::-1])
    again = detector.activation_maps(turned)
    assert again is not None
    np.testing.assert_allclose(again[::-1], maps, atol=1e-5)


def test_the_place_of_a_maximum_is_that_of_the_square_around_a_slice() -> None:
    activation = np.zeros((4, 4))
    activation[1, 3] = 1
    assert explain.place_of_maximum(activation, (64, 64)) == (24, 56)
    # a narrow slice lies in the middle of the square: columns 16 to 47 of it
    assert explain.place_of_maximum(activation, (64, 32)) == (24, 31)
    activation[1, 1] = 2
    assert explain.place_of_maximum(activation, (64, 32)) == (24, 8)


def test_a_map_that_shows_the_bleed_hits_it_and_one_that_does_not_misses(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = next(
        each for each in generate(8, 6, 128, 3) if len({*each.series.pixels[0].shape}) == 1 and each.labels.any()
    )
    covers = [each.covers for each in head.rendered]
    shown, elsewhere = np.zeros((len(covers), 6, 128, 128)), np.zeros((len(covers), 6, 128, 128))
    elsewhere[:, :, 0, 0] = 1
    for i, of_slice in enumerate(covers):
        for name, cover in of_slice.items():
            shown[i, LABELS.index(name)] = cover
            shown[i, 0] = np.maximum(shown[i, 0], cover)
    for maps, expected in ((shown, 1.0), (elsewhere, 0.0)):
        monkeypatch.setattr(detector, "activation_maps", lambda series, size, maps=maps: maps)
        looks = list(explain.look_at(detector, head, 128))
        assert {each.label for each in looks} == set(np.flatnonzero(head.labels.any(axis=0)))
        assert np.mean([each.hit for each in looks]) == expected
        assert all(0 < each.chance < 1 for each in looks)
    assert str(explain.row_of(looks, 0)[3]).startswith("0% [0%, ")
