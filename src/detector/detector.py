"""The trained detector as one object: from a series of slices to six probabilities for each slice."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from src.classify.inputs import network_input, stack_slices
from src.classify.tta import apply_view
from src.config import Config
from src.ct.hounsfield import HU_RANGE
from src.ct.series import Series, adjacent_slices, order_by_series
from src.detector.explain import mean_map
from src.detector.folder import DISTRIBUTION, Description, Member, Network, read_description, read_tensors, read_weights
from src.detector.onnx import NoModels, OnnxRuntime, is_faster_on
from src.detector.runtime import Runtime, TorchRuntime
from src.detector.training_distance import TrainingDistribution
from src.errors import UserError
from src.evaluate.score import CLIP
from src.evaluate.study import Cases, to_studies
from src.files.slice_positions import SlicePositions
from src.labels import LABELS
from src.progress import Watch, unwatched

RUNTIMES = ("auto", "torch", "onnx")
MAP_SIZE = 32  # of class activation maps; networks give 7 to 16 places along each side
BATCH = 8  # slices that all networks predict together: images and activations of no more are in memory at once


class Prediction(NamedTuple):
    """What a detector says of a series of S slices, in the series' order.

    probabilities: (S, 6) float64, columns in the order of LABELS. distances: (S,) float64, from the training set, see
    training_distance.py; None where the detector does not know it.
    """

    probabilities: np.ndarray
    distances: np.ndarray | None


class Detector:
    """All networks of a trained detector, its second stage, and the recipe that makes one prediction of theirs.

        detector = Detector.load(folder)
        probabilities = detector(series)  # (S, 6), columns in the order of LABELS

    description: what it consists of, with operating points and out-of-fold figures. runtime: what
    computes its networks. distribution: of the training set, where it is known.
    """

    def __init__(
        self, description: Description, runtime: Runtime, distribution: TrainingDistribution | None = None
    ) -> None:
        self.description, self.runtime = description, runtime
        self._distribution = distribution
        self._fitted = description.fitted

    @classmethod
    def load(
        cls, folder: Path | str, *, device: str | torch.device | None = None, runtime: str = "torch"
    ) -> "Detector":
        """Load a detector from its folder, each file compared with its checksum; no file in it is run.

        device: where it computes; None for a GPU where there is one, else the CPU. runtime: of RUNTIMES; "torch" gives
        the pipeline's own numbers, "onnx" those of the folder's ONNX models on the CPU, equal to 1e-4, and "auto"
        whichever is faster. Raises UserError where the folder is no detector, of another format, damaged or incomplete,
        for an unknown device, and for a runtime that it or this machine has not.
        """
        try:
            chosen = torch.device(device or ("cuda" if torch.cuda.is_available() and runtime != "onnx" else "cpu"))
        except RuntimeError as error:
            raise UserError(f"device {device}: expected cpu, cuda or cuda:<number>") from error
        if runtime not in RUNTIMES:
            raise UserError(f"runtime {runtime}: expected {' or '.join(RUNTIMES)}")
        description, has_models = read_description(Path(folder))
        distribution = _distribution(Path(folder), description)
        if runtime == "onnx" or (runtime == "auto" and has_models and is_faster_on(chosen)):
            if not has_models:
                raise NoModels(f"{folder} has no ONNX models, which the runtime onnx needs")
            return cls(description, OnnxRuntime(description, Path(folder), chosen), distribution)
        weights = read_weights(Path(folder), description)
        return cls(description, TorchRuntime(description, weights, chosen, str(folder)), distribution)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.runtime.device

    def __call__(self, series: Series, *, watch: Watch = unwatched) -> np.ndarray:
        """The probabilities of each slice: (S, 6) float64, in the series' order, columns in the order of LABELS.

        Slices may come in any order and have different sizes. One whose z is unknown has no adjacent slices: it is
        predicted by itself. watch: is told of slices, batch by batch.
        """
        return self.predict(series, watch=watch).probabilities

    def predict(self, series: Series, *, watch: Watch = unwatched) -> Prediction:
        """The probabilities of each slice, as a call gives them, and its distance from the training set."""
        if not len(series):
            return Prediction(np.empty((0, len(LABELS))), None)
        order = series.order()
        pixels = [np.clip(series.pixels[i], *HU_RANGE) for i in order]
        z = np.asarray(series.z, dtype=np.float64)[order]
        outputs = self._classify(pixels, z, watch)
        members = [self._predict_member(member, outputs, z) for member in self.description.members]
        bagged = self._fitted(np.stack(members), SlicePositions(np.zeros(len(z), dtype=np.int64), z))
        if not np.isfinite(bagged).all():
            raise UserError("some predictions are not finite: a network of the detector cannot read these slices")
        probabilities = np.empty_like(bagged)
        probabilities[order] = np.clip(bagged, CLIP, 1 - CLIP)
        if self._distribution is None or self.description.distance is None:
            return Prediction(probabilities, None)
        distances = np.empty(len(order))
        distances[order] = self._distribution.distance(outputs.embeddings(self.description.distance.network))
        return Prediction(probabilities, distances)

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
            network = next(each for each in self.description.networks if each.name == name)
            found = [
                self.runtime.local_logits(network, torch.from_numpy(images).to(self.device))
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
    def _classify(self, pixels: Sequence[np.ndarray], z: np.ndarray, watch: Watch) -> "_Outputs":
        """What all classifiers make of the slices of a series in order."""
        description = self.description
        classifiers = [each for each in description.networks if each.name in description.classifiers]
        outputs = _Outputs(classifiers, len(pixels))
        readers = {network for member in description.members for network in member.classifiers}
        inputs = _distinct_inputs(description.classifiers.values())
        for number, config in enumerate(inputs):
            networks = [each for each in classifiers if _same_inputs(config, description.classifiers[each.name])]
            for rows, images in _batches(pixels, z, config):
                batch = torch.from_numpy(images).to(self.device)
                views = [apply_view(batch, view) for view in config.tta]
                for network in networks:
                    outputs.add(network, rows, *self.runtime.classify(network, views, embeddings=network in readers))
                watch(number * len(pixels) + rows.stop, len(inputs) * len(pixels))
        return outputs

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
        embeddings, probabilities = outputs.embeddings(classifier), outputs.probabilities[classifier]
        predicted = np.empty((len(z), len(LABELS)), dtype=np.float32)
        order, starts = order_by_series(np.zeros(len(z), dtype=np.int64), z)
        for start, stop in pairwise(starts):
            rows = order[start:stop]
            predicted[rows] = self.runtime.read_series(network, embeddings[rows], probabilities[rows], z[rows])
        return predicted


class _Outputs:
    """The outputs of each classifier network for S slices: probabilities (S, 6), and embeddings where they are read."""

    def __init__(self, networks: Sequence[Network], n_slices: int) -> None:
        self.probabilities = {network: np.empty((n_slices, len(LABELS)), dtype=np.float32) for network in networks}
        self._embeddings: dict[Network, list[np.ndarray]] = {network: [] for network in networks}

    def add(self, network: Network, rows: slice, probabilities: np.ndarray, embeddings: np.ndarray | None) -> None:
        self.probabilities[network][rows] = probabilities
        if embeddings is not None:
            self._embeddings[network].append(embeddings)

    def embeddings(self, network: Network) -> np.ndarray:
        """(S, D) float32."""
        return np.concatenate(self._embeddings[network])


def _distribution(folder: Path, description: Description) -> TrainingDistribution | None:
    if description.distance is None:
        return None
    try:
        return TrainingDistribution.from_tensors(read_tensors(folder, DISTRIBUTION))
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder} has a distribution of its training set that cannot be read ({error})") from error


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
