"""The networks: windows as the first layer, then a convolutional backbone with six outputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from src.classify.weights import load_imagenet, load_weights, rgb_of_channels, size_of_input
from src.config import Config, NetworkConf, WindowConf
from src.ct.hounsfield import STORED_RANGE
from src.errors import UserError
from src.labels import LABELS

# What ImageNet's networks expect of their three channels; the common practice of torchvision's model zoo.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Windows(nn.Module):
    """A conf's W windows, and their jitter in training, as a layer: S slices (N, S, H, W) -> (N, S * W, H, W)."""

    level: torch.Tensor  # (W,) HU
    width: torch.Tensor  # (W,) HU

    def __init__(self, windows: Sequence[WindowConf]) -> None:
        super().__init__()
        # constants with a home elsewhere, so no part of the weights
        self.register_buffer("level", torch.tensor([w.level for w in windows], dtype=torch.float32), persistent=False)
        self.register_buffer("width", torch.tensor([w.width for w in windows], dtype=torch.float32), persistent=False)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """Return each window's view in [0, 1]: all windows of the first slice, then all of the next.

        images: (N, S, H, W), STORED_RANGE as [0, 1]; jitter: (N, W, 2), what is added to each level (HU) and by what
        share of itself each width grows; None leaves the windows where they are.
        """
        low, high = STORED_RANGE
        with torch.autocast(images.device.type, enabled=False):  # fp16 resolves 0.25 HU at best; keep this exact
            hu = images.float() * (high - low) + low
            level, width = self.level[None], self.width[None]  # (1, W)
            if jitter is not None:
                level, width = level + jitter[..., 0], width * (1 + jitter[..., 1])  # (N, W)
            bottom = (level - width / 2)[:, None, :, None, None]
            views = (hu[:, :, None] - bottom) / width[:, None, :, None, None]  # (N, S, W, H, W)
            return views.clamp(0, 1).flatten(1, 2)


class Network(nn.Module):
    """From slices to logits: windows, ImageNet's normalisation, backbone."""

    def __init__(self, backbone: nn.Module, windows: Sequence[WindowConf], n_slices: int, channels_last: bool) -> None:
        super().__init__()
        self.windows = Windows(windows)
        self.backbone = backbone
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # the three windows of a slice stand for red, green and blue, and so on with other numbers
        rgb = rgb_of_channels(n_slices * len(windows))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[None, rgb, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[None, rgb, None, None], persistent=False)
        self.to(memory_format=self.memory_format)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """images (N, S, H, W) in [0, 1], jitter (N, W, 2) or None -> logits (N, 6) in the order of LABELS."""
        views = (self.windows(images, jitter) - self.mean) / self.std
        logits: torch.Tensor = self.backbone(views.contiguous(memory_format=self.memory_format))
        return logits


@contextmanager
def embeddings_of(network: Network) -> Iterator[list[torch.Tensor]]:
    """While it lasts, each batch of N images that a network is called with adds its embedding to the list that this
    gives: (N, D), what the last linear layer makes its logits of.

    Raises UserError for an architecture that does not end in such a layer.
    """
    seen: list[torch.Tensor] = []
    linear = [module for module in network.backbone.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != len(LABELS):
        raise UserError("this architecture does not end in a linear layer, whose input would be the embedding")
    hook = linear[-1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def build_network(config: Config, *, pretrained: str | None = None) -> Network:
    """Build the network of a conf with the weights it starts from. pretrained: in place of the conf's.

    Raises UserError for an unknown architecture, for weights that cannot be fetched or do not fit, and for windows that
    see beyond what the image store keeps.
    """
    _check_windows(config)
    conf, n_slices = config.network, 2 * config.neighbours + 1
    backbone = _build_backbone(conf, config.image_size, n_slices * len(config.windows))
    start = pretrained or conf.pretrained
    if start == "imagenet":
        load_imagenet(backbone, conf.architecture, config.image_size)
    elif start != "none":
        load_weights(backbone, start)
    return Network(backbone, config.windows, n_slices, config.channels_last)


def _check_windows(config: Config) -> None:
    low, high = STORED_RANGE
    for window in config.windows:
        reach = window.width * (1 + config.window_jitter.width) / 2 + config.window_jitter.level
        if window.level - reach < low or window.level + reach > high:
            raise UserError(
                f"windows: level {window.level:g} and width {window.width:g} see, with their jitter, "
                f"{window.level - reach:g} .. {window.level + reach:g} HU; the image store keeps {low} .. {high} HU"
            )


def _build_backbone(conf: NetworkConf, image_size: int, channels: int) -> nn.Module:
    architecture = conf.architecture
    if architecture.startswith("timm/"):
        return _timm(conf, image_size, channels)
    if architecture not in BACKBONES:
        close = get_close_matches(architecture, BACKBONES, n=3) or list(BACKBONES)
        raise UserError(f"unknown architecture {architecture!r}; expected {' or '.join(close)}, or timm/<name>")
    return BACKBONES[architecture](conf, image_size, channels)


def _se_resnext50(conf: NetworkConf, image_size: int, channels: int) -> nn.Module:
    from pretrainedmodels.models.senet import se_resnext50_32x4d

    if conf.drop_path:
        raise UserError(f"network.drop_path {conf.drop_path}: se_resnext50_32x4d has none; leave it out")
    backbone = se_resnext50_32x4d(num_classes=1000, pretrained=None)
    backbone.dropout = nn.Dropout(conf.dropout or 0.0)
    if channels != 3:
        backbone.layer0.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    backbone.avg_pool = nn.AdaptiveAvgPool2d(1)  # its own pool fits an input of 224 alone
    backbone.last_linear = nn.Linear(backbone.last_linear.in_features, len(LABELS))
    return backbone


def _efficientnet_b2(conf: NetworkConf, image_size: int, channels: int) -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    # its padding is worked out beforehand, for the size of the input
    rates = {"dropout_rate": conf.dropout, "drop_connect_rate": conf.drop_path}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    return EfficientNet.from_name(
        "efficientnet-b2", in_channels=channels, image_size=image_size, num_classes=len(LABELS), **given
    )


def _timm(conf: NetworkConf, image_size: int, channels: int) -> nn.Module:
    import timm

    name = conf.architecture.removeprefix("timm/")
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise UserError(f"unknown architecture timm/{name}; {hint}")
    rates = {"drop_rate": conf.dropout, "drop_path_rate": conf.drop_path}
    given: dict[str, Any] = {key: rate for key, rate in rates.items() if rate is not None}
    given |= size_of_input(name, image_size)
    try:
        backbone = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=len(LABELS), **given)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{conf.architecture} cannot be built with {given}: {error}") from error
    _try_size(backbone, conf.architecture, image_size, channels)
    return backbone


def _try_size(backbone: nn.Module, architecture: str, image_size: int, channels: int) -> None:
    """Raise UserError where an architecture of timm's cannot take images of a size, which each says in its own way."""
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"{architecture} cannot take images of {image_size} px: {error}; give another image_size"
        ) from error
    backbone.train()


BACKBONES: dict[str, Callable[[NetworkConf, int, int], nn.Module]] = {
    "se_resnext50_32x4d": _se_resnext50,
    "efficientnet-b2": _efficientnet_b2,
}
