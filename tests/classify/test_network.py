from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.classify.network import IMAGENET_MEAN, IMAGENET_STD, Windows, build_network, require_embeddings
from src.config import Config, WindowConf
from src.ct.hounsfield import to_unit
from src.ct.windows import THREE_WINDOWS, Window, apply_windows
from src.errors import UserError

Make = Callable[..., Config]
WINDOWS = [WindowConf(level=level, width=width) for level, width in THREE_WINDOWS]
HU = np.random.default_rng(0).integers(-200, 301, (2, 8, 8)).astype(np.int16)
IMAGES = torch.from_numpy(to_unit(HU))[:, None]


def test_the_first_layer_is_the_three_windows() -> None:
    expected = np.moveaxis(apply_windows(HU), -1, 1)  # numpy's own implementation
    np.testing.assert_allclose(Windows(WINDOWS)(IMAGES).numpy(), expected, atol=2e-5)


@settings(deadline=None, max_examples=20)
@given(st.floats(-5, 5), st.floats(-0.2, 0.2))
def test_jitter_moves_level_and_width_of_each_slice(level: float, width: float) -> None:
    jitter = torch.zeros(2, 3, 2)
    jitter[1, 2] = torch.tensor([level, width])  # the soft-tissue window of the second slice
    moved = Windows(WINDOWS)(IMAGES, jitter).numpy()
    still = Windows(WINDOWS)(IMAGES).numpy()
    np.testing.assert_array_equal(moved[0], still[0])
    np.testing.assert_array_equal(moved[1, :2], still[1, :2])
    other = (Window(THREE_WINDOWS[2].level + level, THREE_WINDOWS[2].width * (1 + width)),)
    np.testing.assert_allclose(moved[1, 2], apply_windows(HU[1], other)[..., 0], atol=5e-5)


def test_windows_are_exact_in_mixed_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        windowed = Windows(WINDOWS)(IMAGES)
    assert windowed.dtype == torch.float32
    assert torch.equal(windowed, Windows(WINDOWS)(IMAGES))


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
@pytest.mark.parametrize("image_size", [64, 96])
def test_six_logits_at_any_size(make_config: Make, architecture: str, image_size: int) -> None:
    network = build_network(make_config(f"network.architecture={architecture}", f"image_size={image_size}")).eval()
    with torch.inference_mode():
        logits = network(torch.rand(2, 1, image_size, image_size))
    assert logits.shape == (2, 6)
    assert torch.isfinite(logits).all()
    assert not any("windows" in name for name in network.state_dict())  # constants are no part of a checkpoint


def test_the_backbones_are_those_of_the_card(make_config: Make) -> None:
    se_resnext = build_network(make_config("network.architecture=se_resnext50_32x4d", "image_size=64")).backbone
    efficientnet = build_network(make_config("network.architecture=efficientnet-b2", "image_size=64")).backbone
    assert type(se_resnext).__module__.startswith("pretrainedmodels.")
    assert type(efficientnet).__module__.startswith("efficientnet_pytorch.")


def test_rates(make_config: Make) -> None:
    b2, se = "network.architecture=efficientnet-b2", "network.architecture=se_resnext50_32x4d"
    efficientnet = build_network(make_config(b2, "network.dropout=0.1", "network.drop_path=0.05")).backbone
    assert efficientnet._global_params.dropout_rate == 0.1  # type: ignore[union-attr]
    assert efficientnet._global_params.drop_connect_rate == 0.05  # type: ignore[union-attr]
    assert build_network(make_config(se, "network.dropout=0.2")).backbone.dropout.p == 0.2  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"network.drop_path 0.2: se_resnext50_32x4d has none"):
        build_network(make_config(se, "network.drop_path=0.2"))


def test_unknown_architectures_list_close_matches(make_config: Make) -> None:
    with pytest.raises(UserError, match="unknown architecture 'se_resnext50'; expected se_resnext50_32x4d"):
        build_network(make_config("network.architecture=se_resnext50", "image_size=64"))
    with pytest.raises(UserError, match="unknown architecture 'resnet50'; expected timm/resnet50, or timm/<name>"):
        build_network(make_config("network.architecture=resnet50"))
    with pytest.raises(UserError, match="unknown architecture timm/resnet5; did you mean resnet5"):
        build_network(make_config("network.architecture=timm/resnet5", "image_size=64"))


def test_the_windows_of_the_conf_are_those_of_the_project(config: Config) -> None:
    assert tuple((window.level, window.width) for window in config.windows) == THREE_WINDOWS


def test_several_slices_go_through_the_windows_one_by_one() -> None:
    images = torch.cat([IMAGES, IMAGES.flip(0), 1 - IMAGES], dim=1)  # (2, 3, H, W)
    jitter = torch.rand(2, 3, 2) / 10
    windowed = Windows(WINDOWS)(images, jitter)
    assert windowed.shape == (2, 9, 8, 8)
    for i in range(3):
        assert torch.equal(windowed[:, 3 * i : 3 * i + 3], Windows(WINDOWS)(images[:, i : i + 1], jitter))


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
def test_neighbours_and_windows_make_channels(make_config: Make, architecture: str) -> None:
    two = "windows=[{level: 40, width: 80}, {level: 50, width: 130}]"
    network = build_network(make_config(f"network.architecture={architecture}", "neighbours=2", two)).eval()
    assert next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d)).in_channels == 10
    assert network(torch.rand(2, 5, 32, 32)).shape == (2, 6)


def test_windows_beyond_what_is_stored_are_refused(make_config: Make) -> None:
    with pytest.raises(UserError, match=r"600 and width 2800 see, .* -886.* HU; the image store keeps -200 .. 300"):
        build_network(make_config("windows=[{level: 600, width: 2800}]"))
    # its edges are stored, but not what jitter brings in
    build_network(make_config("windows=[{level: 50, width: 500}]", "window_jitter={level: 0, width: 0}"))
    with pytest.raises(UserError, match="with their jitter, -217"):
        build_network(make_config("windows=[{level: 50, width: 500}]"))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_order_in_memory_is_the_confs(make_config: Make, wanted: bool) -> None:
    network = build_network(make_config(f"channels_last={wanted}"))
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    seen: list[torch.Tensor] = []
    convolution.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    network(torch.rand(2, 1, 32, 32))
    for tensor in (convolution.weight, seen[0]):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is wanted


def test_networks_of_a_fixed_size_are_told_the_confs(make_config: Callable[..., Config]) -> None:
    config = make_config("network.architecture=timm/vit_tiny_patch16_224", "image_size=48")
    with torch.inference_mode():
        assert build_network(config).eval()(torch.zeros(2, 1, 48, 48)).shape == (2, 6)


def test_images_that_a_network_cannot_take_are_refused(make_config: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"timm/inception_v3 cannot take images of 32 px: .*; give another image_size"):
        build_network(make_config("network.architecture=timm/inception_v3"))


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
def test_an_embedding_is_what_the_logits_are_made_of(make_config: Make, architecture: str) -> None:
    network = build_network(make_config(f"network.architecture={architecture}")).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    assert network.classifier is last
    for view in (images, images.flip(-1)):
        with torch.no_grad():
            logits, features = network(view), network.forward_features(view)
            embeddings = network.forward_head(features, pre_logits=True)
            assert embeddings.shape == (2, last.in_features)
            torch.testing.assert_close(last(embeddings), logits)
            torch.testing.assert_close(network.forward_head(features), logits)


def test_a_network_without_a_last_linear_layer_has_no_embedding(make_config: Make) -> None:
    network = build_network(make_config("network.architecture=timm/dpn68")).eval()  # it ends in a convolution
    with pytest.raises(UserError, match="does not end in a linear layer"):
        _ = network.classifier
    with torch.no_grad(), pytest.raises(UserError, match="does not end in a linear layer"):
        network.forward_head(network.forward_features(torch.zeros(1, 1, 32, 32)))
    network = build_network(make_config("network.architecture=se_resnext50_32x4d"))
    network.backbone.last_linear = nn.Conv2d(3, 6, 1)
    with pytest.raises(UserError, match="does not end in a linear layer"):
        _ = network.classifier
    network.backbone.last_linear = nn.Linear(2048, 1000)  # another task's
    with pytest.raises(UserError, match="does not end in a linear layer"):
        _ = network.classifier


def test_an_architecture_whose_logits_are_no_layer_of_its_embeddings_is_refused(
    make_config: Callable[..., Config],
) -> None:
    whole = build_network(make_config())
    require_embeddings(whole, 32, 1)
    odd = build_network(make_config("network.architecture=timm/efficientvit_m0", "image_size=224"))
    with pytest.raises(UserError, match="it can have no second stage"):  # batch norm before its last layer
        require_embeddings(odd, 224, 1)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("timm/vit_tiny_patch16_224", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("timm/resnet10t", (IMAGENET_MEAN, IMAGENET_STD)),
        ("se_resnext50_32x4d", (IMAGENET_MEAN, IMAGENET_STD)),
    ],
)
def test_channels_are_normalised_as_the_weights_were_trained(
    architecture: str, expected: tuple[tuple[float, ...], tuple[float, ...]], make_config: Callable[..., Config]
) -> None:
    network = build_network(make_config(f"network.architecture={architecture}", "image_size=64"))
    mean, std = expected
    assert network.mean.flatten().tolist() == pytest.approx(mean)
    assert network.std.flatten().tolist() == pytest.approx(std)
