"""Class activation maps: where in a slice a classifier sees what it calls by a label.

Source: Zhou et al., "Learning deep features for discriminative localization", CVPR 2016. A network that ends in global
average pooling and one linear layer gives a logit that is the mean, over the places of its last feature map, of the
same linear layer applied at each place. That local logit is the map, and nothing about it is approximate. Networks with
another end have no such map.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from src.classify.network import Network

SURE = float(np.log(0.99 / 0.01))  # a local logit that is a probability of 0.99


@torch.inference_mode()
def activation_map(network: Network, images: torch.Tensor) -> torch.Tensor | None:
    """Local logits of a batch: (N, S, H, W) in [0, 1] -> (N, 6, h, w) float32, whose mean over h, w is the logits.

    None for a network that does not end in global average pooling and a linear layer; this is tried out, not assumed.
    """
    features = network.forward_features(images)
    last = network.parts.classifier(network.backbone)
    if features.ndim != 4 or not isinstance(last, nn.Linear) or features.shape[1] != last.in_features:
        return None
    local, logits = local_logits(features, last), network.forward_head(features).float()
    return local if torch.allclose(local.mean(dim=(2, 3)), logits, rtol=1e-2, atol=1e-2) else None


def local_logits(features: torch.Tensor, last: nn.Linear) -> torch.Tensor:
    """A network's last layer at each place of its feature map: (N, D, h, w) -> (N, 6, h, w) float32."""
    bias = None if last.bias is None else last.bias.float()
    return F.conv2d(features.float(), last.weight.float()[:, :, None, None], bias)


def mean_map(maps: Sequence[torch.Tensor], size: int) -> np.ndarray:
    """The mean local logits of several networks, (N, 6, h, w) each, to be shown: (N, 6, size, size) in [0, 1].

    0 is a place that does not speak for a label, and 1 the one of a slice that speaks for it most; where even that has
    less than SURE, SURE would be 1, so that a slice without evidence stays dark. As probabilities, local logits of a
    network that is sure would be 1 all over the head.
    """
    scaled = [F.interpolate(each, size=(size, size), mode="bilinear", align_corners=False) for each in maps]
    logits = torch.stack(scaled).mean(dim=0).clamp(min=0)
    return (logits / logits.amax(dim=(2, 3), keepdim=True).clamp(min=SURE)).cpu().numpy()
