"""The loops over slices: one epoch of training, one pass of prediction."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast
from torch import nn
from torch.utils.data import DataLoader

from src.classify.loss import weighted_bce
from src.errors import Stopped, UserError, first_few
from src.labels import LABELS
from src.progress import progress


def make_accelerator(precision: str) -> Accelerator:
    """The device, precision ("fp16", "bf16", "none") and processes that torch.distributed and accelerate see.

    Without a CUDA device fp16 becomes fp32, with a line that says so.
    """
    has_gpu = torch.cuda.is_available()
    mixed = "no" if precision == "none" or (precision == "fp16" and not has_gpu) else precision
    # a conf's batch is the whole of a step, shared by the processes: learning rate and steps keep their meaning
    loading = DataLoaderConfiguration(split_batches=True)
    accelerator = Accelerator(mixed_precision=mixed, cpu=not has_gpu, dataloader_config=loading)
    if precision == "fp16" and not has_gpu and accelerator.is_main_process:
        print("no CUDA device: fp32 on the CPU in place of fp16", flush=True)
    return accelerator


def train_epoch(
    accelerator: Accelerator,
    network: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    ids: Sequence[str],
    desc: str,
) -> float:
    """Train for one epoch and return its mean loss over slices.

    `ids` names the dataset's slices. Raises UserError where the loss is not finite, Stopped on SIGTERM.
    """
    network.train()
    total, count = 0.0, 0
    with _sigterm_noted() as asked_to_stop:
        for batch in progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process):
            loss = weighted_bce(network(batch["image"], batch["jitter"]), batch["target"])
            value = loss.item()
            if not np.isfinite(value):
                named = first_few([ids[i] for i in batch["index"].tolist()], limit=8)
                raise UserError(
                    f"the loss is {value} on the slices {named}; try a lower optimizer.lr or precision: none"
                )
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + value * len(batch["target"]), count + len(batch["target"])
            if asked_to_stop:
                raise Stopped("the same command goes on from the last finished epoch")
    sums = accelerator.reduce(torch.tensor([total, count], dtype=torch.float64, device=accelerator.device))
    return float(sums[0] / sums[1])


def reestimate_batch_norm(accelerator: Accelerator, network: nn.Module, loader: DataLoader, desc: str) -> None:
    """Set the running means and variances of batch norm to those of the loader's slices under the present weights.

    Running statistics lag behind the weights; over a short run from scratch so far that validation shows nothing of
    what was learned. The loader gives (index, images).
    """
    batches = progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process)
    torch.optim.swa_utils.update_bn((images for _, images in batches), network)


def share_buffers(network: nn.Module) -> None:
    """Give all processes the first one's buffers: batch norm's statistics are each process's own, but one network is
    validated and saved.
    """
    for buffer in network.buffers():
        broadcast(buffer, from_process=0)


@torch.inference_mode()
def predict_slices(
    accelerator: Accelerator, networks: Sequence[nn.Module], loader: DataLoader, n_slices: int, desc: str
) -> np.ndarray:
    """Probabilities of every slice by every network, each slice read once: (len(networks), n_slices, 6) float32.

    The loader gives (index, images); each process returns the whole.
    """
    for network in networks:
        network.eval()
    probabilities = np.full((len(networks), n_slices, len(LABELS)), np.nan, dtype=np.float32)
    for index, images in progress(loader, desc=desc, unit="batch", shown=accelerator.is_main_process):
        logits = torch.stack([network(images) for network in networks], dim=1)  # (N, K, 6)
        index, seen = accelerator.gather_for_metrics((index, logits.float().sigmoid()))
        probabilities[:, index.cpu().numpy()] = seen.cpu().numpy().swapaxes(0, 1)
    if np.isnan(probabilities).any():
        raise UserError("some predictions are not finite: the network has diverged; train it again with a lower lr")
    return probabilities


@contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """Collect SIGTERM in the yielded list instead of dying of it, so that the loop can end between two steps."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
