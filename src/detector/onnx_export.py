"""ONNX models of a detector's networks, each a file that is complete by itself.

A classifier's model takes `hu`, (N, slices, H, W) float32: squares of HU clipped to HU_RANGE, of the conf's image size,
each slice with its adjacent ones; any N. It gives `probabilities` (N, 6) in the order of LABELS, `embeddings` (N, D),
and `local_logits` (N, 6, h, w), the class activation maps; the last two where the architecture has them. Windows are
inside.

A sequence network's model takes the T slices of one series: `embeddings` (T, D) and `classifier_probabilities` (T, 6)
of its classifier, float32, the means over its views, and `z` (T,) float64 mm and rising; any T. It gives
`probabilities` (T, 6). Principal components and features of the positions are inside.

PyTorch's older exporter is used: it writes a GRU as one operator that takes any T, needs seconds a network in place of
a minute (torch 2.15), and no package but onnx.
"""

import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from src.classify.network import Network as ClassifierNetwork
from src.config import Config
from src.ct.hounsfield import HU_RANGE
from src.detector.explain import activation_map, local_logits
from src.detector.folder import Description, Weights, model_files
from src.detector.onnx import open_session
from src.detector.runtime import load_classifier, load_sequence
from src.errors import UserError, shortened
from src.evaluate.score import CLIP
from src.labels import LABELS
from src.sequence.components import PrincipalComponents
from src.sequence.network import Recurrent, SequenceNetwork

OPSET = 17  # the first with layer normalisation; ONNX Runtime has it since 1.12, of 2022
TOLERANCE = 1e-4  # of probabilities, between ONNX Runtime and PyTorch


def export_models(description: Description, weights: Weights) -> Iterator[tuple[str, bytes]]:
    """Make the ONNX model of each network when its turn comes: (name of its file, content), the same bytes each time.

    Each is checked, and compared with its network. Raises UserError for a network that cannot be exported, or whose
    model computes something else.
    """
    for network, name in model_files(description.networks).items():
        model: ClassifierModel | SequenceModel
        if network.name in description.classifiers:
            model = ClassifierModel(
                load_classifier(description, weights, network), description.classifiers[network.name]
            )
        else:
            dimensions = description.sequences[network.name].dimensions
            model = SequenceModel(*load_sequence(description, weights, network), dimensions)
        what = f"{network.name} fold {network.fold} epoch {network.epoch}"
        facts = {"network": what, "checkpoint": network.checkpoint, "labels": " ".join(LABELS)}
        yield name, export_model(model.eval(), facts)


class ClassifierModel(nn.Module):
    """What is exported of a classifier."""

    inputs = ("hu",)
    dynamic = "N"

    @torch.inference_mode()
    def __init__(self, network: ClassifierNetwork, config: Config) -> None:
        super().__init__()
        self.network = network
        self.shape = (2 * config.neighbours + 1, config.image_size, config.image_size)
        if hasattr(network.backbone, "set_swish"):
            # efficientnet_pytorch's own saves memory in training, and has no operator
            network.backbone.set_swish(False)  # type: ignore[operator]
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        self.has_embeddings = self._tells_embeddings(images)
        self.has_maps = self.has_embeddings and activation_map(network, images) is not None
        self.outputs = ("probabilities", *["embeddings"] * self.has_embeddings, *["local_logits"] * self.has_maps)

    def forward(self, hu: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs, see above."""
        low, high = HU_RANGE
        images = (hu - low) / (high - low)
        if not self.has_embeddings:
            return (self.network(images).sigmoid(),)
        features = self.network.forward_features(images)
        embeddings = self.network.forward_head(features, pre_logits=True)
        maps = (local_logits(features, self.network.classifier),) if self.has_maps else ()
        return self.network.classifier(embeddings).sigmoid(), embeddings, *maps

    def example(self, count: int) -> tuple[torch.Tensor, ...]:
        """Inputs for `count` slices."""
        low, high = HU_RANGE
        images = torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(count))
        return (images * (high - low) + low,)

    def _tells_embeddings(self, images: torch.Tensor) -> bool:
        """Whether the logits are a linear layer of the embeddings."""
        try:
            logits = self.network.forward_head(self.network.forward_features(images))
        except UserError:
            return False
        return torch.allclose(logits, self.network(images), rtol=TOLERANCE, atol=TOLERANCE)


class SequenceModel(nn.Module):
    """What is exported of a sequence network."""

    inputs = ("embeddings", "classifier_probabilities", "z")
    outputs = ("probabilities",)
    dynamic = "T"

    def __init__(self, network: SequenceNetwork, components: PrincipalComponents | None, dimensions: int) -> None:
        super().__init__()
        if isinstance(network.along_z, Recurrent):
            network.along_z = _Unpacked(network.along_z)  # type: ignore[assignment]  # it is called alike
        self.network = network
        self.dimensions: int = dimensions if components is None else components.axes.shape[1]
        self.mean = self.axes = None
        if components is not None:
            self.mean = nn.Parameter(torch.from_numpy(components.mean), requires_grad=False)
            self.axes = nn.Parameter(torch.from_numpy(components.axes), requires_grad=False)

    def forward(self, embeddings: torch.Tensor, probabilities: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor]:
        """Compute the output, see above."""
        if self.mean is not None and self.axes is not None:
            embeddings = (embeddings - self.mean) @ self.axes.T
        embeddings = embeddings.to(torch.float16).float()  # as embedding files keep them
        logits = torch.logit(probabilities, eps=CLIP)
        mask = torch.ones_like(z, dtype=torch.bool)
        batch = [embeddings, logits, _position_features(z), (z - z[:1]).float(), mask]
        return (self.network(*(each[None] for each in batch))[0].sigmoid(),)

    def example(self, count: int) -> tuple[torch.Tensor, ...]:
        """Inputs for a series of `count` slices."""
        generator = torch.Generator().manual_seed(count)
        embeddings = torch.randn(count, self.dimensions, generator=generator)
        z = torch.rand(count, generator=generator, dtype=torch.float64).mul(9).cumsum(0)
        return embeddings, torch.rand(count, len(LABELS), generator=generator), z


class _Unpacked(nn.Module):
    """A `Recurrent` for one series without padding, which need not be packed: packing has no operator."""

    def __init__(self, packed: Recurrent) -> None:
        super().__init__()
        self.network, self.width_out = packed.network, packed.width_out

    def forward(self, slices: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.network(slices)[0], slices], dim=-1)


def _position_features(z: torch.Tensor) -> torch.Tensor:
    """`sequence.series.position_features` in operators: (T,) float64 mm -> (T, 5) float32."""
    first, last, gaps = z[:1], z[-1:], z[1:] - z[:-1]
    span, nothing = last - first, first - first
    relative = torch.where(span > 0, 2 * (z - first) / torch.where(span > 0, span, span + 1) - 1, z - z)
    distances = [z - first, last - z, torch.cat([nothing, gaps]), torch.cat([gaps, nothing])]
    return torch.stack([relative, *(torch.log1p(each) for each in distances)], dim=1).float()


def export_model(model: ClassifierModel | SequenceModel, facts: dict[str, str]) -> bytes:
    """The ONNX model of a network, checked and compared with it. facts: kept in it; "network" names it in errors."""
    import onnx

    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age, and of traces that depend on sizes: the comparison sees those
            torch.onnx.export(
                model,
                model.example(2),
                buffer,  # which this exporter takes
                dynamo=False,
                opset_version=OPSET,
                input_names=list(model.inputs),
                output_names=list(model.outputs),
                dynamic_axes={name: {0: model.dynamic} for name in (*model.inputs, *model.outputs)},
            )
        exported = onnx.load_model_from_string(buffer.getvalue())
        onnx.helper.set_model_props(exported, facts)
        onnx.checker.check_model(exported, full_check=True)
        data: bytes = exported.SerializeToString(deterministic=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an operator that is unknown, a size beyond 2 GB: each of its own class
        said = " ".join(str(error).split())
        raise UserError(
            f"{facts['network']} cannot be exported to ONNX ({type(error).__name__}: {shortened(said)})"
        ) from error
    _compare(model, data, facts["network"])
    return data


@torch.inference_mode()
def _compare(model: ClassifierModel | SequenceModel, data: bytes, what: str) -> None:
    """Raise UserError where a model does not give what its network gives, for other numbers of slices than exported."""
    session = open_session(data)
    for count in (1, 3):
        inputs = model.example(count)
        expected = model(*inputs)
        given = {name: tensor.numpy() for name, tensor in zip(model.inputs, inputs, strict=True)}
        for name, found, tensor in zip(model.outputs, _run(session, given, what), expected, strict=True):
            largest = max(1.0, float(tensor.abs().max()))  # embeddings and logits have any size
            worst = float(np.abs(found - tensor.numpy()).max()) if found.shape == tensor.shape else np.inf
            if not worst <= TOLERANCE * largest:
                raise UserError(f"the ONNX model of {what} gives other {name} than its network, by {worst:.2g}")


def _run(session: object, given: dict[str, np.ndarray], what: str) -> Sequence[np.ndarray]:
    try:
        found: Sequence[np.ndarray] = session.run(None, given)  # type: ignore[attr-defined]
        return found
    except Exception as error:  # of a class of its own for each kind
        raise UserError(
            f"the ONNX model of {what} cannot be run ({type(error).__name__}: {shortened(error)})"
        ) from error
