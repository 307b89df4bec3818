"""The networks of a detector through ONNX Runtime, from the ONNX models in its folder; on the CPU."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.ct.hounsfield import HU_RANGE
from src.detector.folder import Description, Network, model_files
from src.errors import UserError, shortened


class NoModels(UserError):  # noqa: N818 - it names what a detector lacks
    """A detector without ONNX models is to compute with them."""


class OnnxRuntime:
    """A session of ONNX Runtime for each network. What the models take and give is in onnx_export.py.

    Raises UserError where the package is missing, for another device than the CPU, and for a model that it cannot load.
    """

    def __init__(self, description: Description, folder: Path, device: torch.device) -> None:
        if device.type != "cpu":
            raise UserError(f"device {device}: the runtime onnx computes on the cpu")
        if not is_installed():
            raise UserError("the runtime onnx needs the package onnxruntime, which is not installed")
        self.device = device
        files = model_files(description.networks)
        self._sessions = {network: open_session(folder / files[network]) for network in description.networks}

    @property
    def provenance(self) -> dict[str, str]:
        """ONNX Runtime with its version, and PyTorch's: views are made by it."""
        import onnxruntime

        return {"runtime": "onnx", "onnxruntime": onnxruntime.__version__, "torch": str(torch.__version__)}

    def classify(
        self, network: Network, views: Sequence[torch.Tensor], *, embeddings: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Runtime`."""
        names = ["probabilities", *(["embeddings"] if embeddings else [])]
        found = [self._sessions[network].run(names, {"hu": to_hu(images)}) for images in views]
        means: list[np.ndarray] = [np.stack(of_views).mean(axis=0) for of_views in zip(*found, strict=True)]
        return means[0], means[1] if embeddings else None

    def local_logits(self, network: Network, images: torch.Tensor) -> torch.Tensor | None:
        """See `Runtime`."""
        session = self._sessions[network]
        if "local_logits" not in [output.name for output in session.get_outputs()]:
            return None
        return torch.from_numpy(session.run(["local_logits"], {"hu": to_hu(images)})[0])

    def read_series(
        self, network: Network, embeddings: np.ndarray, probabilities: np.ndarray, z: np.ndarray
    ) -> np.ndarray:
        """See `Runtime`."""
        given = {"embeddings": embeddings, "classifier_probabilities": probabilities, "z": np.nan_to_num(z)}
        predicted: np.ndarray = self._sessions[network].run(["probabilities"], given)[0]
        return predicted


def is_installed() -> bool:
    """Whether the package onnxruntime is there."""
    return find_spec("onnxruntime") is not None


def is_faster_on(device: torch.device) -> bool:
    """Whether this runtime is there and faster than PyTorch on a device: docs/benchmarks.md."""
    return device.type == "cpu" and is_installed()


def open_session(model: Path | bytes) -> Any:
    """A session for a model, with as many threads as PyTorch has. Raises UserError for what it cannot load."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone, which it raises too
    options.intra_op_num_threads = torch.get_num_threads()
    # many sessions wait while one computes: their threads must not spin, nor each keep its largest activations
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    content = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class of its own for each kind
        what = "the model" if isinstance(model, bytes) else model
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} cannot load {what} ({type(error).__name__}: {shortened(error)})"
        ) from error


def to_hu(images: torch.Tensor) -> np.ndarray:
    """The input of a classifier's model, from that of its network: [0, 1] -> float32 HU in HU_RANGE, same shape."""
    low, high = HU_RANGE
    hu: np.ndarray = (images * (high - low) + low).numpy()
    return hu
