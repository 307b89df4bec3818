"""The networks: windows as the first layer, then a convolutional backbone with six outputs."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from src.classify.weights import load_imagenet, load_weights
from src.config import NetworkConf
from src.ct.hounsfield import STORED_RANGE
from src.ct.windows import THREE_WINDOWS, Window
from src.errors import UserError
from src.labels import LABELS

# What ImageNet's networks expect of their three channels; the common practice of torchvision's model zoo.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Windows(nn.Module):
    """The windows of ct/windows.py, and their jitter in training, as a layer: (N, 1, H, W) -> (N, 3, H, W)."""

    level: torch.Tensor  # (3,) HU
    width: torch.Tensor  # (3,) HU

    def __init__(self, windows: tuple[Window, ...] = THREE_WINDOWS) -> None:
        super().__init__()
        # constants with a home elsewhere, so no part of a checkpoint
        self.register_buffer("level", torch.tensor([w.level for w in windows], dtype=torch.float32), persistent=False)
        self.register_buffer("width", torch.tensor([w.width for w in windows], dtype=torch.float32), persistent=False)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """Return each window's view in [0, 1].

        images: (N, 1, H, W), STORED_RANGE as [0, 1]; jitter: (N, 3, 2), what is added to each level (HU) and by what
        share of itself each width grows; None leaves the windows where they are.
        """
        low, high = STORED_RANGE
        with torch.autocast(images.device.type, enabled=False):  # fp16 resolves 0.25 HU at best; keep this exact
            hu = images.float() * (high - low) + low
            level, width = self.level[None], self.width[None]  # (1, 3)
            if jitter is not None:
                level, width = level + jitter[..., 0], width * (1 + jitter[..., 1])  # (N, 3)
            bottom = (level - width / 2)[:, :, None, None]
            return ((hu - bottom) / width[:, :, None, None]).clamp(0, 1)


class Network(nn.Module):
    """From slices to logits: windows, ImageNet's normalisation, backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.windows = Windows()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[None, :, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[None, :, None, None], persistent=False)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """images (N, 1, H, W) in [0, 1], jitter (N, 3, 2) or None -> logits (N, 6) in the order of LABELS."""
        views = (self.windows(images, jitter) - self.mean) / self.std
        logits: torch.Tensor = self.backbone(views.contiguous(memory_format=torch.channels_last))
        return logits


def build_network(conf: NetworkConf, image_size: int) -> Network:
    """Build the network of a conf with the weights it starts from.

    Raises UserError for an unknown architecture, and for weights that cannot be fetched or do not fit.
    """
    backbone = _build_backbone(conf, image_size)
    if conf.pretrained == "imagenet":
        load_imagenet(backbone, conf.architecture)
    elif conf.pretrained != "none":
        load_weights(backbone, conf.pretrained)
    return Network(backbone).to(memory_format=torch.channels_last)


def _build_backbone(conf: NetworkConf, image_size: int) -> nn.Module:
    architecture = conf.architecture
    if architecture.startswith("timm/"):
        return _timm(conf)
    if architecture not in BACKBONES:
        close = get_close_matches(architecture, BACKBONES, n=3) or list(BACKBONES)
        raise UserError(f"unknown architecture {architecture!r}; expected {' or '.join(close)}, or timm/<name>")
    return BACKBONES[architecture](conf, image_size)


def _se_resnext50(conf: NetworkConf, image_size: int) -> nn.Module:
    from pretrainedmodels.models.senet import se_resnext50_32x4d

    if conf.drop_path:
        raise UserError(f"network.drop_path {conf.drop_path}: se_resnext50_32x4d has none; leave it out")
    backbone = se_resnext50_32x4d(num_classes=1000, pretrained=None)
    backbone.dropout = nn.Dropout(conf.dropout or 0.0)
    backbone.avg_pool = nn.AdaptiveAvgPool2d(1)  # its own pool fits an input of 224 alone
    backbone.last_linear = nn.Linear(backbone.last_linear.in_features, len(LABELS))
    return backbone


def _efficientnet_b2(conf: NetworkConf, image_size: int) -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    # its padding is worked out beforehand, for the size of the input
    rates = {"dropout_rate": conf.dropout, "drop_connect_rate": conf.drop_path}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    return EfficientNet.from_name("efficientnet-b2", image_size=image_size, num_classes=len(LABELS), **given)


def _timm(conf: NetworkConf) -> nn.Module:
    import timm

    name = conf.architecture.removeprefix("timm/")
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise UserError(f"unknown architecture timm/{name}; {hint}")
    rates = {"drop_rate": conf.dropout, "drop_path_rate": conf.drop_path}
    given: dict[str, Any] = {key: rate for key, rate in rates.items() if rate is not None}
    try:
        return timm.create_model(name, pretrained=False, num_classes=len(LABELS), **given)
    except TypeError as error:
        raise UserError(f"{conf.architecture} cannot be built with network.dropout or drop_path: {error}") from error


BACKBONES: dict[str, Callable[[NetworkConf, int], nn.Module]] = {
    "se_resnext50_32x4d": _se_resnext50,
    "efficientnet-b2": _efficientnet_b2,
}
