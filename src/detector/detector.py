"""The trained detector as one object: from a series of slices to six probabilities for each slice."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.classify.inputs import network_input, stack_slices
from src.classify.network import Network as ClassifierNetwork
from src.classify.network import build_network
from src.classify.tta import apply_view, mean_over_views
from src.config import Config, TrainingConf
from src.ct.hounsfield import HU_RANGE
from src.ct.series import Series, adjacent_slices, order_by_series
from src.detector.explain import activation_map, mean_map
from src.detector.folder import Description, Member, Network, Weights, read_folder, weights_file
from src.errors import UserError
from src.evaluate.score import CLIP
from src.evaluate.study import Cases, to_studies
from src.files.slice_positions import SlicePositions
from src.labels import LABELS
from src.sequence.components import PrincipalComponents
from src.sequence.network import SequenceNetwork
from src.sequence.series import batch_logits, collate, series_sample
from src.train.checkpoint import load_weights
from src.train.distributed import mixed_precision

MAP_SIZE = 32  # of class activation maps; networks give 7 to 16 places along each side
BATCH = 8  # slices that all networks predict together: images and activations of no more are in memory at once


class Detector:
    """All networks of a trained detector, its second stage, and the recipe that makes one prediction of theirs.

        detector = Detector.load(folder)
        probabilities = detector(series)  # (S, 6), columns in the order of LABELS

    description: what it consists of, with operating points and out-of-fold figures.
    """

    def __init__(
        self,
        description: Description,
        weights: Weights,
        device: torch.device,
        source: str = "the detector",
    ) -> None:
        self.description, self.device = description, device
        self._fitted = description.fitted
        self._classifiers: dict[Network, ClassifierNetwork] = {}
        self._sequences: dict[Network, SequenceNetwork] = {}
        self._components: dict[Network, PrincipalComponents] = {}
        for network in description.networks:
            tensors = _of_network(weights[network.name], network)
            where = f"{source}, {weights_file(network.name)}, {network.prefix}"
            if network.name in description.classifiers:
                config = description.classifiers[network.name]
                self._classifiers[network] = self._ready(build_network(config, pretrained="none"), tensors, where)
            else:
                model = description.sequences[network.name]
                if model.components is not None:
                    mean, axes = tensors.pop("components.mean"), tensors.pop("components.axes")
                    self._components[network] = PrincipalComponents(mean.numpy(), axes.numpy())
                built = SequenceNetwork(model.config, model.dimensions, torch.zeros(len(LABELS)))
                self._sequences[network] = self._ready(built, tensors, where)

    @classmethod
    def load(cls, folder: Path | str, *, device: str | torch.device | None = None) -> "Detector":
        """Load a detector from its folder, each file compared with its checksum; no file in it is run.

        device: where it computes; None for a GPU where there is one, else the CPU. Raises UserError where the folder is
        no detector, of another format, damaged or incomplete, and for an unknown device.
        """
        try:
            chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise UserError(f"device {device}: expected cpu, cuda or cuda:<number>") from error
        description, weights = read_folder(Path(folder))
        return cls(description, weights, chosen, str(folder))

    def __call__(self, series: Series) -> np.ndarray:
        """The probabilities of each slice: (S, 6) float64, in the series' order, columns in the order of LABELS.

        Slices may come in any order and have different sizes. One whose z is unknown has no adjacent slices: it is
        predicted by itself.
        """
        if not len(series):
            return np.empty((0, len(LABELS)))
        order = series.order()
        pixels = [np.clip(series.pixels[i], *HU_RANGE) for i in order]
        z = np.asarray(series.z, dtype=np.float64)[order]
        outputs = self._classify(pixels, z)
        members = [self._predict_member(member, outputs, z) for member in self.description.members]
        bagged = self._fitted(np.stack(members), SlicePositions(np.zeros(len(z), dtype=np.int64), z))
        if not np.isfinite(bagged).all():
            raise UserError("some predictions are not finite: a network of the detector cannot read these slices")
        probabilities = np.empty_like(bagged)
        probabilities[order] = np.clip(bagged, CLIP, 1 - CLIP)
        return probabilities

    @torch.inference_mode()
    def activation_maps(self, series: Series, size: int = MAP_SIZE) -> np.ndarray | None:
        """Class activation maps of a series: (S, 6, size, size) float32 in [0, 1], over the square input of networks.

        They are the mean over one network of each classifier, the first, which costs a fraction of a prediction. None
        where no classifier has such maps: see `explain`.
        """
        order, maps = series.order(), []
        pixels = [np.clip(series.pixels[i], *HU_RANGE) for i in order]
        z = np.asarray(series.z, dtype=np.float64)[order]
        for name, config in self.description.classifiers.items():
            network = next(each for each in self._classifiers if each.name == name)
            found = [
                activation_map(self._classifiers[network], torch.from_numpy(images).to(self.device))
                for _, images in _batches(pixels, z, config)
            ]
            if found and found[0] is not None:
                maps.append(torch.cat([each for each in found if each is not None]))
        if not maps:
            return None
        ordered = mean_map(maps, size)
        in_series = np.empty_like(ordered)
        in_series[order] = ordered
        return in_series

    def study_level(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities of a study: (S, 6) of its slices -> (6,), the maximum over them (see evaluate/study.py)."""
        if not len(probabilities):
            raise ValueError("no slices, of which a study has one at least")
        zeros = np.zeros(len(probabilities), dtype=np.int64)
        cases = Cases(np.zeros(probabilities.shape, dtype=np.int64), probabilities, zeros, zeros)
        studies: np.ndarray = to_studies(cases, zeros).probabilities[0]
        return studies

    @property
    def operating_points(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Thresholds by level ("slice", "study"), name ("youden", "sensitivity_95", "specificity_95") and label."""
        return self.description.operating_points

    @torch.inference_mode()
    def _classify(self, pixels: Sequence[np.ndarray], z: np.ndarray) -> "_Outputs":
        """What all classifiers make of the slices of a series in order."""
        outputs = _Outputs(self._classifiers, len(pixels))
        readers = {network for member in self.description.members for network in member.classifiers}
        for config in _distinct_inputs(self.description.classifiers.values()):
            networks = [each for each in self._classifiers if _same_inputs(config, self._config(each))]
            for rows, images in _batches(pixels, z, config):
                batch = torch.from_numpy(images).to(self.device)
                views = [apply_view(batch, view) for view in config.tta]
                for network in networks:
                    with self._autocast(self._config(network)):
                        if network in readers:
                            outputs.add(network, rows, *_with_embeddings(self._classifiers[network], views))
                        else:
                            outputs.add(network, rows, mean_over_views(self._classifiers[network], views), None)
        return outputs

    @torch.inference_mode()
    def _predict_member(self, member: Member, outputs: "_Outputs", z: np.ndarray) -> np.ndarray:
        """The mean over a member's folds: (S, 6) float64."""
        if not member.classifiers:
            return np.mean([outputs.probabilities[network].astype(np.float64) for network in member.networks], axis=0)
        by_fold = [
            self._read_series(network, outputs, classifier, z)
            for network, classifier in zip(member.networks, member.classifiers, strict=True)
        ]
        return np.mean([each.astype(np.float64) for each in by_fold], axis=0)

    def _read_series(self, network: Network, outputs: "_Outputs", classifier: Network, z: np.ndarray) -> np.ndarray:
        """A sequence network's probabilities of the slices of a series: (S, 6) float32."""
        embeddings = outputs.embeddings(classifier)
        if network in self._components:
            embeddings = self._components[network](embeddings)
        with np.errstate(over="ignore"):
            embeddings = embeddings.astype(np.float16).astype(np.float32)  # as embedding files keep them
        logits = outputs.logits(classifier)
        predicted = np.empty((len(z), len(LABELS)), dtype=np.float32)
        order, starts = order_by_series(np.zeros(len(z), dtype=np.int64), z)
        for start, stop in pairwise(starts):
            rows = order[start:stop]
            batch = collate([series_sample(embeddings[rows], logits[rows], z[rows], rows)])
            on_device = {key: value.to(self.device) for key, value in batch.items()}  # type: ignore[attr-defined]
            with self._autocast(self.description.sequences[network.name].config):
                found = batch_logits(self._sequences[network], on_device)  # type: ignore[arg-type]
            predicted[rows] = found.float().sigmoid().cpu().numpy()
        return predicted

    def _config(self, network: Network) -> Config:
        return self.description.classifiers[network.name]

    def _autocast(self, config: TrainingConf) -> AbstractContextManager[object]:
        """The precision of a conf, as far as this machine has it."""
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(mixed_precision(config.precision))
        if dtype is None or (dtype is torch.float16 and self.device.type != "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype)

    def _ready(self, network: nn.Module, tensors: dict[str, torch.Tensor], source: str):  # type: ignore[no-untyped-def]
        load_weights(network, tensors, source)
        return network.to(self.device).eval()


class _Outputs:
    """The outputs of each classifier network for S slices: probabilities (S, 6), and embeddings where they are read."""

    def __init__(self, networks: dict[Network, ClassifierNetwork], n_slices: int) -> None:
        self.probabilities = {network: np.empty((n_slices, len(LABELS)), dtype=np.float32) for network in networks}
        self._embeddings: dict[Network, list[np.ndarray]] = {network: [] for network in networks}

    def add(self, network: Network, rows: slice, probabilities: torch.Tensor, embeddings: torch.Tensor | None) -> None:
        self.probabilities[network][rows] = probabilities.cpu().numpy()
        if embeddings is not None:
            self._embeddings[network].append(embeddings.cpu().numpy())

    def embeddings(self, network: Network) -> np.ndarray:
        """(S, D) float32."""
        return np.concatenate(self._embeddings[network])

    def logits(self, network: Network) -> np.ndarray:
        """(S, 6) float32, as an embedding file has them."""
        return torch.logit(torch.from_numpy(self.probabilities[network]), eps=CLIP).numpy()


def _with_embeddings(network: ClassifierNetwork, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A network's mean probabilities (N, 6) and mean embeddings (N, D) over the views of a batch, float32."""
    embeddings = [network.forward_head(network.forward_features(images), pre_logits=True) for images in views]
    probabilities = torch.stack([network.classifier(each).float().sigmoid() for each in embeddings])
    return probabilities.mean(dim=0), torch.stack(embeddings).float().mean(dim=0)


def _batches(pixels: Sequence[np.ndarray], z: np.ndarray, config: Config) -> Iterator[tuple[slice, np.ndarray]]:
    """The inputs of the slices of a series in order, a few at a time: (their rows, (N, slices, size, size) float32)."""
    adjacent = adjacent_slices(np.zeros(len(z), dtype=np.int64), z, config.neighbours)
    for start in range(0, len(pixels), BATCH):
        rows = slice(start, min(start + BATCH, len(pixels)))
        stacks = (stack_slices([pixels[i] for i in adjacent[row]]) for row in range(rows.start, rows.stop))
        yield rows, np.stack([network_input(stack, config) for stack in stacks])


def _same_inputs(one: Config, other: Config) -> bool:
    """Whether two classifiers look at the same images in the same views, which then are made once."""
    return (one.image_size, one.neighbours, one.tta) == (other.image_size, other.neighbours, other.tta)


def _distinct_inputs(configs: Iterable[Config]) -> list[Config]:
    distinct: list[Config] = []
    for config in configs:
        if not any(_same_inputs(config, each) for each in distinct):
            distinct.append(config)
    return distinct


def _of_network(tensors: dict[str, torch.Tensor], network: Network) -> dict[str, torch.Tensor]:
    """The tensors of one network, by their own names."""
    prefix = network.prefix
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
