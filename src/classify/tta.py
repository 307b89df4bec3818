"""Test-time augmentation: fixed views of a slice, over which probabilities are averaged. Nothing is random."""

import re
from collections.abc import Sequence
from math import cos, radians, sin
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from src.config import Config, FlippedView, IdentityView, RotatedView, ScaledView, ViewConf

IDENTITY = IdentityView(name="Identity")


def tta_name(config: Config) -> str:
    """A conf's views in words, as prediction files record them: `Identity Rotate(degrees=10.0)`."""
    return " ".join(view_name(view) for view in config.tta)


def parse_tta(name: str) -> list[dict[str, Any]]:
    """The views that `tta_name` wrote, as a conf has them. Raises ValueError for other text."""
    views = []
    for each in name.split(" "):
        found = re.fullmatch(r"(\w+)(?:\((.*)\))?", each)
        if found is None:
            raise ValueError(f"{each!r} is no view of a slice")
        arguments = (pair.split("=", 1) for pair in (found[2] or "").split(", ") if pair)
        views.append({"name": found[1], **{key: float(value) for key, value in arguments}})
    return views


def view_name(view: ViewConf) -> str:
    """A view in a word: `Rotate(degrees=10.0)`."""
    arguments = view.model_dump(exclude={"name"})
    return view.name + (f"({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else "")


def mean_over_views(network: nn.Module, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """A network's mean probabilities over the views of a batch, each (N, S, H, W) -> (N, 6) float32."""
    return torch.stack([network(images).float().sigmoid() for images in views]).mean(dim=0)


def apply_view(images: torch.Tensor, view: ViewConf) -> torch.Tensor:
    """A batch (N, S, H, W) in [0, 1] in a view, of the same shape. What comes into view is air, which is 0."""
    match view:
        case FlippedView():
            return images.flip(-1)
        case RotatedView(degrees=degrees):
            x, y = cos(radians(degrees)), sin(radians(degrees))
            return _sample(images, ((x, -y, 0.0), (y, x, 0.0)))
        case ScaledView(factor=factor):
            return _sample(images, ((1 / factor, 0.0, 0.0), (0.0, 1 / factor, 0.0)))
    return images


def _sample(images: torch.Tensor, affine: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Take each pixel from the place in the image that an affine map of x and y, from -1 to 1 each, gives."""
    theta = torch.tensor(affine, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
