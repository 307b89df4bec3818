"""The sequence models: corrections to a classifier's logits, from its embeddings of all slices of a series.

The competition showed that adjacent slices help, and embeddings more than predictions alone: its first and second
places both ended in a recurrent network over a series' embeddings (Wang et al., NeuroImage: Clinical, 2021).
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.config import RecurrentConf, SequenceConfig, TransformerConf
from src.labels import LABELS
from src.sequence.series import POSITION_FEATURES

LOGIT_SCALE = 4.0  # scales the logits of a confident classifier to about 1
NEAREST_MM, FURTHEST_MM = 5.0, 80.0  # reach of a transformer's heads before training


class SequenceNetwork(nn.Module):
    """From a batch of series to logits: (B, T, 6), of which those of padding are meaningless.

    It adds corrections to the classifier's logits; before training the corrections are zero. dimensions: of an
    embedding. prior: (6,) prevalences in the training slices, which replace the classifier's logits where training
    hides them.
    """

    prior_logits: torch.Tensor  # (6,)

    def __init__(self, config: SequenceConfig, dimensions: int, prior: torch.Tensor) -> None:
        super().__init__()
        width = config.model.width
        self.logit_dropout, self.logit_noise = config.logit_dropout, config.logit_noise
        self.register_buffer("prior_logits", torch.logit(prior.float(), eps=1e-4))
        self.project = nn.Sequential(
            nn.LayerNorm(dimensions), nn.Dropout(config.embedding_dropout), nn.Linear(dimensions, width), nn.GELU()
        )
        self.join = nn.Sequential(
            nn.Linear(3 * width + len(LABELS) + POSITION_FEATURES, width), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.along_z = MODELS[config.model.name](config)
        last = nn.Linear(self.along_z.width_out, len(LABELS))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.LayerNorm(self.along_z.width_out), nn.Dropout(config.dropout), last)

    def forward(
        self,
        embedding: torch.Tensor,
        logits: torch.Tensor,
        positions: torch.Tensor,
        z: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits (B, T, 6) of B series of at most T slices.

        embedding: (B, T, D); logits: (B, T, 6), the classifier's; positions: (B, T, 5), see `position_features`; z:
        (B, T) mm; mask: (B, T) bool, False for padding.
        """
        logits = self._perturbed(logits)
        slices = self.project(embedding) * mask[..., None]  # (B, T, W)
        before, after = differences(slices, mask)
        features = torch.cat([slices, before, after, logits / LOGIT_SCALE, positions], dim=-1)
        read = self.along_z(self.join(features) * mask[..., None], z, mask)
        return logits + self.head(read).float()

    def _perturbed(self, logits: torch.Tensor) -> torch.Tensor:
        """In training, hide some slices' logits and add noise to the others'.

        The classifier was trained on the same slices as this network, so it is more confident on them than on others.
        """
        if not self.training:
            return logits
        hidden = torch.rand(logits.shape[:-1], device=logits.device) < self.logit_dropout  # (B, T)
        noisy = logits + self.logit_noise * torch.randn_like(logits)
        return torch.where(hidden[..., None], self.prior_logits, noisy)


def differences(slices: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences from the previous and from the next slice, 0 where there is none.

    slices (B, T, W), mask (B, T) -> (B, T, W) twice.
    """
    steps = (slices[:, 1:] - slices[:, :-1]) * (mask[:, 1:] & mask[:, :-1])[..., None]  # (B, T - 1, W)
    return nn.functional.pad(steps, (0, 0, 1, 0)), nn.functional.pad(-steps, (0, 0, 0, 1))


class Recurrent(nn.Module):
    """A GRU or LSTM in both directions, concatenated with its input: (B, T, W) -> (B, T, 3 * W)."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        conf = config.model
        assert isinstance(conf, RecurrentConf)  # noqa: S101 - MODELS pairs them
        kind = {"GRU": nn.GRU, "LSTM": nn.LSTM}[conf.name]
        between = config.dropout if conf.layers > 1 else 0.0
        self.network = kind(conf.width, conf.width, conf.layers, batch_first=True, bidirectional=True, dropout=between)
        self.width_out = 3 * conf.width

    def forward(self, slices: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """slices: (B, T, W), 0 in padding, which is not read; z is not used."""
        lengths = mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(slices, lengths, batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.network(packed)[0], batch_first=True, total_length=slices.shape[1])
        return torch.cat([read, slices], dim=-1)


class Transformer(nn.Module):
    """A transformer encoder, (B, T, W) -> (B, T, W), with z as positions.

    Each head's attention falls exponentially with the distance in millimetres, at a learned rate: ALiBi (Press, Smith,
    Lewis, ICLR 2022), with millimetres in place of tokens, so that uneven gaps are taken into account.
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        conf = config.model
        assert isinstance(conf, TransformerConf)  # noqa: S101 - MODELS pairs them
        self.layers = nn.ModuleList(EncoderLayer(conf.width, conf.heads, config.dropout) for _ in range(conf.layers))
        reaches = torch.logspace(math.log10(NEAREST_MM), math.log10(FURTHEST_MM), conf.heads)
        self.log_reach = nn.Parameter(reaches.log())  # (heads,) of mm
        self.width_out = conf.width

    def forward(self, slices: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """slices: (B, T, W); z: (B, T) mm; padding gets no attention."""
        distance = (z[:, :, None] - z[:, None, :]).abs()  # (B, T, T) mm
        bias = -distance[:, None] / self.log_reach.exp()[:, None, None]  # (B, heads, T, T)
        bias = bias.masked_fill(~mask[:, None, None, :], float("-inf"))
        for layer in self.layers:
            slices = layer(slices, bias)
        return slices


class EncoderLayer(nn.Module):
    """Attention, then a two-layer network on each slice alone; each after layer norm, with a residual connection.

    torch's own layer is not used: without gradients it takes a code path that reads a float bias as a boolean mask
    (https://github.com/pytorch/pytorch/issues/118628), so predictions would differ from training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, slices: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """slices: (B, T, W); bias: (B, heads, T, T), added before the softmax."""
        # (B, T, 3 * W) -> 3 of (B, heads, T, W / heads)
        query, key, value = self.to_qkv(self.norm(slices)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = nn.functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)
        slices = slices + self.drop(self.from_heads(seen.transpose(1, 2).flatten(2)))
        return slices + self.drop(self.each(slices))


MODELS: dict[str, Callable[[SequenceConfig], Recurrent | Transformer]] = {
    "GRU": Recurrent,
    "LSTM": Recurrent,
    "Transformer": Transformer,
}
