"""Batches of series, and what a sequence model says of them."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader

from src.classify.loading import make_loader
from src.config import SequenceConfig
from src.errors import UserError
from src.labels import LABELS
from src.progress import progress
from src.sequence.embedded import Embedded
from src.sequence.series import SeriesDataset, collate


def make_series_loader(config: SequenceConfig, embedded: Embedded, *, unseen: bool, **more: Any) -> DataLoader:
    """Batches of the series that the classifier did not see, or of the others. more: further arguments of torch's."""
    chosen, shuffled = embedded.series(unseen=unseen), config.order == "shuffled"
    dataset = SeriesDataset(embedded.slices, embedded.embeddings, chosen, shuffled=shuffled, seed=config.seed)
    return make_loader(config, dataset, collate_fn=collate, **more)


@torch.inference_mode()
def predict_series(
    accelerator: Accelerator, network: nn.Module, loader: DataLoader, n_slices: int, desc: str
) -> np.ndarray:
    """A sequence model's probabilities of the slices of the loader's series: (n_slices, 6) float32, NaN for others.

    n_slices: that a batch's "index" counts. Raises UserError where a probability is not finite.
    """
    network.eval()
    probabilities = np.full((n_slices, len(LABELS)), np.nan, dtype=np.float32)
    found = []
    for batch in progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process):
        predicted = network(batch)[batch["mask"]].float().sigmoid()
        if not predicted.isfinite().all():
            raise UserError("some predictions are not finite: the network has diverged; train it with a lower lr")
        found.append((batch["index"].cpu().numpy(), predicted.cpu().numpy()))
    # series that fill up a last batch for all processes come twice, and the same is said of them
    for index, values in gather_object(found):
        probabilities[index] = values
    return probabilities
