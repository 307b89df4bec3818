"""TensorBoard curves of a training, written as it goes: `tensorboard --logdir model`."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Scalars over steps, counted from 1 over all epochs. Nothing is written without a folder.

    step: the last one that counts; points after it, which an interrupted run made and this one will make again, go.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=30) if folder is not None else None

    def add(self, values: dict[str, Any], step: int) -> None:
        """Add a point to each curve. What is not finite, such as the AUC of a label that nobody has, is left out."""
        if self._writer is not None:
            for name, value in values.items():
                if value == value:  # not NaN
                    self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring all of it to the disk."""
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()
