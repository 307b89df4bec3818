"""The networks: windows as the first layer, then a convolutional backbone with six outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from src.classify.weights import load_imagenet, load_weights, rgb_of_channels, size_of_input
from src.config import Config, NetworkConf, WindowConf
from src.ct.hounsfield import HU_RANGE
from src.errors import UserError
from src.labels import LABELS

# Mean and standard deviation that ImageNet networks expect of their three channels, as in torchvision's model zoo.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Windows(nn.Module):
    """A layer with a conf's W windows and their jitter in training: S slices (N, S, H, W) -> (N, S * W, H, W)."""

    level: torch.Tensor  # (W,) HU
    width: torch.Tensor  # (W,) HU

    def __init__(self, windows: Sequence[WindowConf]) -> None:
        super().__init__()
        # not persistent, because these constants come from the conf
        self.register_buffer("level", torch.tensor([w.level for w in windows], dtype=torch.float32), persistent=False)
        self.register_buffer("width", torch.tensor([w.width for w in windows], dtype=torch.float32), persistent=False)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the windows to the slices, giving [0, 1]: all windows of the first slice, then all of the next.

        images: (N, S, H, W), HU_RANGE scaled to [0, 1]; jitter: (N, W, 2), HU added to each level and the fraction by
        which each width grows; None leaves the windows unchanged.
        """
        low, high = HU_RANGE
        with torch.autocast(images.device.type, enabled=False):  # fp16 resolves 0.25 HU at best, too coarse here
            hu = images.float() * (high - low) + low
            level, width = self.level[None], self.width[None]  # (1, W)
            if jitter is not None:
                level, width = level + jitter[..., 0], width * (1 + jitter[..., 1])  # (N, W)
            bottom = (level - width / 2)[:, None, :, None, None]
            views = (hu[:, :, None] - bottom) / width[:, None, :, None, None]  # (N, S, W, H, W)
            return views.clamp(0, 1).flatten(1, 2)


@dataclass(frozen=True)
class BackboneParts:
    """The parts of a type of backbone.

    features: from normalised channels (N, C, H, W) to the input of the head, which for a convolutional network is maps
    (N, D, h, w); pre_logits: from there to embeddings (N, D); classifier: the linear layer from embeddings to logits
    (N, 6).
    """

    features: Callable[[Any, torch.Tensor], torch.Tensor]
    pre_logits: Callable[[Any, torch.Tensor], torch.Tensor]
    classifier: Callable[[Any], nn.Module]


class Network(nn.Module):
    """From slices to logits: windows, the normalisation that the backbone's weights were trained with, backbone."""

    def __init__(
        self,
        backbone: nn.Module,
        parts: BackboneParts,
        windows: Sequence[WindowConf],
        n_slices: int,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.windows = Windows(windows)
        self.backbone, self.parts = backbone, parts
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # the three windows of a slice correspond to red, green and blue; with other numbers these repeat
        rgb = rgb_of_channels(n_slices * len(windows))
        mean, std = normalisation(backbone)
        self.register_buffer("mean", torch.tensor(mean)[None, rgb, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[None, rgb, None, None], persistent=False)
        self.to(memory_format=self.memory_format)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        """images (N, S, H, W) in [0, 1], jitter (N, W, 2) or None -> logits (N, 6) in the order of LABELS."""
        logits: torch.Tensor = self.backbone(self._channels(images, jitter))
        return logits

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """images (N, S, H, W) -> input of the head; for a convolutional network maps (N, D, h, w). Like timm's."""
        return self.parts.features(self.backbone, self._channels(images, None))

    def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        """Output of `forward_features` -> logits (N, 6), or with pre_logits embeddings (N, D). Like timm's."""
        embeddings = self.parts.pre_logits(self.backbone, features)
        return embeddings if pre_logits else self.classifier(embeddings)

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, from embeddings (N, D) to logits (N, 6).

        Raises UserError for an architecture that does not end in a linear layer.
        """
        last = self.parts.classifier(self.backbone)
        if not isinstance(last, nn.Linear) or last.out_features != len(LABELS):
            raise UserError("this architecture does not end in a linear layer, whose input would be the embedding")
        return last

    def _channels(self, images: torch.Tensor, jitter: torch.Tensor | None) -> torch.Tensor:
        views = (self.windows(images, jitter) - self.mean) / self.std
        return views.contiguous(memory_format=self.memory_format)


def normalisation(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of red, green and blue: those of timm's weights of a backbone, else ImageNet's."""
    cfg = getattr(backbone, "pretrained_cfg", {})
    mean, std = tuple(cfg.get("mean") or ()), tuple(cfg.get("std") or ())
    return (mean, std) if len(mean) == len(std) == 3 else (IMAGENET_MEAN, IMAGENET_STD)


@torch.inference_mode()
def require_embeddings(network: Network, image_size: int, n_slices: int) -> None:
    """Raise UserError for an architecture whose logits are not a linear layer of its embeddings.

    Some of timm's networks have several heads, or layers after the pooled features that `forward_head` leaves out. To
    tell a batch norm there from nothing, those of this network get random statistics: it is of no use afterwards.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
    images = torch.rand(2, n_slices, image_size, image_size, generator=torch.Generator().manual_seed(0))
    if not torch.allclose(network.forward_head(network.forward_features(images)), network(images), atol=1e-4):
        raise UserError(
            "the logits of this architecture are not a linear layer of its embeddings: it can have no second stage"
        )


def build_network(config: Config, *, pretrained: str | None = None) -> Network:
    """Build the network of a conf with its initial weights. pretrained: replaces the conf's.

    Raises UserError for an unknown architecture, for weights that cannot be fetched or do not fit, and for windows that
    exceed the range of HU that the image store keeps.
    """
    _check_windows(config)
    conf, n_slices = config.network, 2 * config.neighbours + 1
    backbone = _build_backbone(conf, config.image_size, n_slices * len(config.windows))
    start = pretrained or conf.pretrained
    if start == "imagenet":
        load_imagenet(backbone, conf.architecture, config.image_size)
    elif start != "none":
        load_weights(backbone, start)
    parts = PARTS.get(conf.architecture, _TIMM_PARTS)
    return Network(backbone, parts, config.windows, n_slices, config.channels_last)


def _check_windows(config: Config) -> None:
    low, high = HU_RANGE
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
        import timm

        of_timm = [f"timm/{architecture}"] if timm.is_model(architecture) else []
        close = of_timm or get_close_matches(architecture, BACKBONES, n=3) or list(BACKBONES)
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
    backbone.avg_pool = nn.AdaptiveAvgPool2d(1)  # its own pool fits only an input of 224 px
    backbone.last_linear = nn.Linear(backbone.last_linear.in_features, len(LABELS))
    return backbone


def _efficientnet_b2(conf: NetworkConf, image_size: int, channels: int) -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    # its padding is computed at construction, from the size of the input
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
    """Raise UserError where a timm architecture cannot take images of a size; each raises an error of its own kind."""
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

PARTS = {
    "se_resnext50_32x4d": BackboneParts(
        features=lambda backbone, channels: backbone.features(channels),
        pre_logits=lambda backbone, features: backbone.avg_pool(features).flatten(1),
        classifier=lambda backbone: backbone.last_linear,
    ),
    "efficientnet-b2": BackboneParts(
        features=lambda backbone, channels: backbone.extract_features(channels),
        pre_logits=lambda backbone, features: backbone._avg_pooling(features).flatten(1),
        classifier=lambda backbone: backbone._fc,
    ),
}
_TIMM_PARTS = BackboneParts(
    features=lambda backbone, channels: backbone.forward_features(channels),
    pre_logits=lambda backbone, features: backbone.forward_head(features, pre_logits=True),
    classifier=lambda backbone: backbone.get_classifier(),
)
