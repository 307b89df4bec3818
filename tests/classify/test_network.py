import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.classify.network import Windows, build_network
from src.config import NetworkConf
from src.ct.hounsfield import to_unit
from src.ct.windows import THREE_WINDOWS, Window, apply_windows
from src.errors import UserError

HU = np.random.default_rng(0).integers(-200, 301, (2, 8, 8)).astype(np.int16)
IMAGES = torch.from_numpy(to_unit(HU))[:, None]


def _conf(architecture: str, **more: object) -> NetworkConf:
    return NetworkConf(architecture=architecture, pretrained="none", **more)  # type: ignore[arg-type]


def test_the_first_layer_is_the_three_windows() -> None:
    expected = np.moveaxis(apply_windows(HU), -1, 1)  # numpy's own implementation
    np.testing.assert_allclose(Windows()(IMAGES).numpy(), expected, atol=2e-5)


@settings(deadline=None, max_examples=20)
@given(st.floats(-5, 5), st.floats(-0.2, 0.2))
def test_jitter_moves_level_and_width_of_each_slice(level: float, width: float) -> None:
    jitter = torch.zeros(2, 3, 2)
    jitter[1, 2] = torch.tensor([level, width])  # the soft-tissue window of the second slice
    moved = Windows()(IMAGES, jitter).numpy()
    still = Windows()(IMAGES).numpy()
    np.testing.assert_array_equal(moved[0], still[0])
    np.testing.assert_array_equal(moved[1, :2], still[1, :2])
    other = (Window(THREE_WINDOWS[2].level + level, THREE_WINDOWS[2].width * (1 + width)),)
    np.testing.assert_allclose(moved[1, 2], apply_windows(HU[1], other)[..., 0], atol=5e-5)


def test_windows_are_exact_in_mixed_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = Windows()(IMAGES)
    assert views.dtype == torch.float32
    assert torch.equal(views, Windows()(IMAGES))


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
@pytest.mark.parametrize("image_size", [64, 96])
def test_six_logits_at_any_size(architecture: str, image_size: int) -> None:
    network = build_network(_conf(architecture), image_size).eval()
    with torch.inference_mode():
        logits = network(torch.rand(2, 1, image_size, image_size))
    assert logits.shape == (2, 6)
    assert torch.isfinite(logits).all()
    assert not any("windows" in name for name in network.state_dict())  # constants are no part of a checkpoint


def test_the_backbones_are_those_of_the_card() -> None:
    se_resnext = build_network(_conf("se_resnext50_32x4d"), 64).backbone
    efficientnet = build_network(_conf("efficientnet-b2"), 64).backbone
    assert type(se_resnext).__module__.startswith("pretrainedmodels.")
    assert type(efficientnet).__module__.startswith("efficientnet_pytorch.")


def test_rates() -> None:
    efficientnet = build_network(_conf("efficientnet-b2", dropout=0.1, drop_path=0.05), 64).backbone
    assert efficientnet._global_params.dropout_rate == 0.1  # type: ignore[union-attr]
    assert efficientnet._global_params.drop_connect_rate == 0.05  # type: ignore[union-attr]
    assert build_network(_conf("se_resnext50_32x4d", dropout=0.2), 64).backbone.dropout.p == 0.2  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"network.drop_path 0.2: se_resnext50_32x4d has none"):
        build_network(_conf("se_resnext50_32x4d", drop_path=0.2), 64)


def test_unknown_architectures_list_close_matches() -> None:
    with pytest.raises(UserError, match="unknown architecture 'se_resnext50'; expected se_resnext50_32x4d"):
        build_network(_conf("se_resnext50"), 64)
    with pytest.raises(UserError, match="unknown architecture timm/resnet5; did you mean resnet5"):
        build_network(_conf("timm/resnet5"), 64)
