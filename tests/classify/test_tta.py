from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from src.classify.tta import apply_view, mean_over_views, tta_name, view_name
from src.config import Config, FlippedView, IdentityView, RotatedView, ScaledView

IMAGES = torch.rand(2, 3, 33, 33, generator=torch.Generator().manual_seed(0))
IDENTITY, FLIP = IdentityView(name="Identity"), FlippedView(name="HorizontalFlip")


def test_names_tell_views_apart() -> None:
    views = [IDENTITY, FLIP, RotatedView(name="Rotate", degrees=-10), ScaledView(name="Scale", factor=1.1)]
    assert [view_name(view) for view in views] == [
        "Identity", "HorizontalFlip", "Rotate(degrees=-10.0)", "Scale(factor=1.1)"
    ]  # fmt: skip


def test_identity_and_flip_are_exact() -> None:
    assert torch.equal(apply_view(IMAGES, IDENTITY), IMAGES)
    np.testing.assert_array_equal(apply_view(IMAGES, FLIP).numpy(), IMAGES.numpy()[..., ::-1])


@pytest.mark.parametrize(
    ("view", "degrees", "scale"),
    [
        (RotatedView(name="Rotate", degrees=20), 20, 1),
        (RotatedView(name="Rotate", degrees=-7), -7, 1),
        (ScaledView(name="Scale", factor=1.25), 0, 1.25),
        (ScaledView(name="Scale", factor=0.8), 0, 0.8),
    ],
)
def test_equals_opencv(view: RotatedView | ScaledView, degrees: float, scale: float) -> None:
    # OpenCV turns counter-clockwise too, about a pixel's centre
    seen = apply_view(IMAGES, view).numpy()
    matrix = cv2.getRotationMatrix2D((16, 16), degrees, scale)
    for image, found in zip(IMAGES.numpy().reshape(6, 33, 33), seen.reshape(6, 33, 33), strict=True):
        expected = cv2.warpAffine(image, matrix, (33, 33), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        np.testing.assert_allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.04)  # OpenCV rounds to 1/32 pixel


def test_what_comes_into_view_is_air() -> None:
    assert apply_view(torch.ones(1, 1, 32, 32), ScaledView(name="Scale", factor=0.5))[0, 0, :7].sum() == 0
    assert apply_view(torch.ones(1, 1, 32, 32), RotatedView(name="Rotate", degrees=45))[0, 0, 0, 0] == 0


def test_the_mean_is_of_probabilities() -> None:
    class Brightness(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(1, 2, 3))[:, None].expand(-1, 6) * 8

    one, two = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    found = mean_over_views(Brightness(), [one, two])
    assert found.shape == (1, 6)
    torch.testing.assert_close(found, torch.full((1, 6), float(0.5 + torch.tensor(8.0).sigmoid()) / 2))


def test_the_default_is_identity_and_flip(make_config: Callable[..., Config]) -> None:
    assert [view.name for view in make_config().tta] == ["Identity", "HorizontalFlip"]
    assert tta_name(make_config()) == "Identity HorizontalFlip"
    turned = make_config("tta=[{name: Identity}, {name: Rotate, degrees: 10}]")
    assert tta_name(turned) == "Identity Rotate(degrees=10.0)"
