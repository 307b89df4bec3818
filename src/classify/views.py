"""Test-time augmentation: fixed ways to look at a slice, over which probabilities are averaged. Nothing is random."""

from collections.abc import Sequence
from math import cos, radians, sin

import torch
from torch import nn
from torch.nn import functional as F

from src.config import FlippedView, IdentityView, RotatedView, ScaledView, ViewConf

AS_IT_IS = IdentityView(name="Identity")


def view_name(view: ViewConf) -> str:
    """A view in a word, as prediction files record it: `Rotate(degrees=10.0)`."""
    arguments = view.model_dump(exclude={"name"})
    return view.name + (f"({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else "")


def mean_over_views(network: nn.Module, seen: Sequence[torch.Tensor]) -> torch.Tensor:
    """A network's mean probabilities over V views of a batch, each (N, S, H, W) -> (N, 6) float32."""
    return torch.stack([network(images).float().sigmoid() for images in seen]).mean(dim=0)


def look(images: torch.Tensor, view: ViewConf) -> torch.Tensor:
    """A batch (N, S, H, W) in [0, 1] as a view has it, of the same shape. What comes into view is air, which is 0."""
    match view:
        case FlippedView():
            return images.flip(-1)
        case RotatedView(degrees=degrees):
            x, y = cos(radians(degrees)), sin(radians(degrees))
            return _sample(images, ((x, -y, 0.0), (y, x, 0.0)))
        case ScaledView(factor=factor):
            return _sample(images, ((1 / factor, 0.0, 0.0), (0.0, 1 / factor, 0.0)))
    return images


def _sample(images: torch.Tensor, where: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Look up each pixel where an affine map of x and y, from -1 to 1 each, has it in the image."""
    theta = torch.tensor(where, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
