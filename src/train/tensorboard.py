"""Curves of a training for TensorBoard, written while it runs: `tensorboard --logdir model`."""

from math import isnan
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Scalars over steps, counted from 1 over all epochs. Nothing is written without a folder.

    step: the last step to keep; later points, which an interrupted run wrote and this one writes again, are removed.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=30) if folder is not None else None

    def add(self, values: dict[str, Any], step: int) -> None:
        """Add a point to each curve. NaN, such as the AUC of a label that no slice has, is left out."""
        if self._writer is not None:
            for name, value in values.items():
                if not isnan(value):
                    self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all points to disk."""
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
