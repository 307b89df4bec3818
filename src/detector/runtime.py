"""What computes the networks of a detector. All else, from slices and views to the recipe, is the same for each.

`TorchRuntime` is here, from the weights; `OnnxRuntime` is in onnx.py, from ONNX models.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from src.classify.network import Network as ClassifierNetwork
from src.classify.network import build_network
from src.classify.tta import mean_over_views
from src.config import TrainingConf
from src.detector.explain import activation_map
from src.detector.folder import Description, Network, Weights, weights_file
from src.evaluate.score import CLIP
from src.labels import LABELS
from src.sequence.components import PrincipalComponents
from src.sequence.network import SequenceNetwork
from src.sequence.series import batch_logits, collate, series_sample
from src.train.checkpoint import load_weights
from src.train.distributed import mixed_precision

_Built = TypeVar("_Built", bound=nn.Module)


class Runtime(Protocol):
    """The networks of a detector, ready to compute."""

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""

    @property
    def provenance(self) -> dict[str, str]:
        """What computes, and the versions that its numbers depend on."""

    def classify(
        self, network: Network, views: Sequence[torch.Tensor], *, embeddings: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A classifier's mean over the views of a batch: probabilities (N, 6), and if asked for embeddings (N, D).

        views: each (N, slices, H, W) in [0, 1]. Both results are float32.
        """

    def local_logits(self, network: Network, images: torch.Tensor) -> torch.Tensor | None:
        """A classifier's class activation maps, (N, slices, H, W) -> (N, 6, h, w); None where it has none."""

    def read_series(
        self, network: Network, embeddings: np.ndarray, probabilities: np.ndarray, z: np.ndarray
    ) -> np.ndarray:
        """A sequence network's probabilities of the T slices of a series: (T, 6) float32.

        embeddings (T, D) and probabilities (T, 6): the classifier's, float32; z: (T,) mm and rising, NaN for a slice
        by itself.
        """


class TorchRuntime:
    """The networks in PyTorch, on any device."""

    def __init__(
        self, description: Description, weights: Weights, device: torch.device, source: str = "the detector"
    ) -> None:
        self.device = device
        self.classifiers: dict[Network, ClassifierNetwork] = {}
        self.sequences: dict[Network, SequenceNetwork] = {}
        self._components: dict[Network, PrincipalComponents] = {}
        self._description = description
        for network in description.networks:
            if network.name in description.classifiers:
                self.classifiers[network] = load_classifier(description, weights, network, source).to(device)
            else:
                built, components = load_sequence(description, weights, network, source)
                self.sequences[network] = built.to(device)
                if components is not None:
                    self._components[network] = components

    @property
    def provenance(self) -> dict[str, str]:
        """PyTorch and its version."""
        return {"runtime": "torch", "torch": str(torch.__version__)}

    @torch.inference_mode()
    def classify(
        self, network: Network, views: Sequence[torch.Tensor], *, embeddings: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Runtime`."""
        built = self.classifiers[network]
        with self._autocast(self._description.classifiers[network.name]):
            if not embeddings:
                return mean_over_views(built, views).cpu().numpy(), None
            found = [built.forward_head(built.forward_features(images), pre_logits=True) for images in views]
            probabilities = torch.stack([built.classifier(each).float().sigmoid() for each in found])
        return probabilities.mean(dim=0).cpu().numpy(), torch.stack(found).float().mean(dim=0).cpu().numpy()

    def local_logits(self, network: Network, images: torch.Tensor) -> torch.Tensor | None:
        """See `Runtime`."""
        return activation_map(self.classifiers[network], images)

    @torch.inference_mode()
    def read_series(
        self, network: Network, embeddings: np.ndarray, probabilities: np.ndarray, z: np.ndarray
    ) -> np.ndarray:
        """See `Runtime`."""
        if network in self._components:
            embeddings = self._components[network](embeddings)
        with np.errstate(over="ignore"):
            embeddings = embeddings.astype(np.float16).astype(np.float32)  # as embedding files keep them
        logits = torch.logit(torch.from_numpy(probabilities), eps=CLIP).numpy()  # as in an embedding file
        batch = collate([series_sample(embeddings, logits, z, np.arange(len(z)))])
        on_device = {key: value.to(self.device) for key, value in batch.items()}  # type: ignore[attr-defined]
        with self._autocast(self._description.sequences[network.name].config):
            found = batch_logits(self.sequences[network], on_device)  # type: ignore[arg-type]
        predicted: np.ndarray = found.float().sigmoid().cpu().numpy()
        return predicted

    def _autocast(self, config: TrainingConf) -> AbstractContextManager[object]:
        """The precision of a conf, as far as this machine has it."""
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(mixed_precision(config.precision))
        if dtype is None or (dtype is torch.float16 and self.device.type != "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype)


def load_classifier(
    description: Description, weights: Weights, network: Network, source: str = "the detector"
) -> ClassifierNetwork:
    """A classifier's network with its weights. source: of these, for errors. Raises UserError where they do not fit."""
    built = build_network(description.classifiers[network.name], pretrained="none")
    return _with_weights(built, _tensors_of(weights, network), network, source)


def load_sequence(
    description: Description, weights: Weights, network: Network, source: str = "the detector"
) -> tuple[SequenceNetwork, PrincipalComponents | None]:
    """A sequence network with its weights, and the components that it wants embeddings reduced to, if any."""
    model, tensors, components = description.sequences[network.name], _tensors_of(weights, network), None
    if model.components is not None:
        mean, axes = tensors.pop("components.mean"), tensors.pop("components.axes")
        components = PrincipalComponents(mean.numpy(), axes.numpy())
    built = SequenceNetwork(model.config, model.dimensions, torch.zeros(len(LABELS)))
    return _with_weights(built, tensors, network, source), components


def _with_weights(built: _Built, tensors: dict[str, torch.Tensor], network: Network, source: str) -> _Built:
    load_weights(built, tensors, f"{source}, {weights_file(network.name)}, {network.prefix}")
    return built.eval()


def _tensors_of(weights: Weights, network: Network) -> dict[str, torch.Tensor]:
    """The tensors of one network, by their own names."""
    prefix, tensors = network.prefix, weights[network.name]
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
