"""Sanity checks before a long training: a conf's size and steps, and whether its network can overfit a few slices."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from src.classify.augment import Augmentation
from src.classify.dataset import EvalDataset, LabelledSlices, read_fold_split
from src.classify.network import Network, build_network
from src.config import Config, dump_config
from src.errors import UserError
from src.files.layout import Layout
from src.progress import progress
from src.train.distributed import make_accelerator
from src.train.loss import weighted_bce
from src.train.optim import MOMENTS, make_optimizer
from src.train.trainer import steps_per_epoch

NEAR_ZERO = 0.02  # a loss; for 16 slices, half of them with a bleed, predicting their prevalences gives about 0.5
MOST_STEPS = 400


@dataclass(frozen=True)
class Sizes:
    """The size of a network."""

    parameters: int
    weight_bytes: int
    activation_bytes: int  # of one slice in fp32, kept for the backward pass

    def training_bytes(self, config: Config) -> int:
        """Estimate the memory of a training step: weights, gradients, moments, average, and a batch's activations."""
        halves = 2 if config.precision in ("fp16", "bf16") else 1
        copies = 2 + MOMENTS.get(config.optimizer.name, 2) + (config.ema_decay is not None)
        return copies * self.weight_bytes + config.batch_size * self.activation_bytes // halves


def describe(config: Config, fold: int, layout: Layout) -> str:
    """Return a text with the resolved conf, the network's size, and the slices and steps of an epoch on a fold.

    Raises UserError for everything in a conf that training would refuse, but does not fetch ImageNet weights.
    """
    training, validation = read_fold_split(layout, fold, config.neighbours)
    steps = steps_per_epoch(config, fold, len(training))
    Augmentation(config.augment, config.image_size)
    network = build_network(config, pretrained="none" if config.network.pretrained == "imagenet" else None)
    make_optimizer(config.optimizer, network)
    sizes = measure(network, config)
    return "\n".join(
        [
            dump_config(config).rstrip(),
            "",
            f"{sizes.parameters / 1e6:.1f} million parameters, {sizes.weight_bytes / 1e6:.0f} MB of weights",
            f"about {sizes.training_bytes(config) / 1e9:.1f} GB of GPU memory (an estimate)",
            f"fold {fold}: {len(training.ids)} slices to train on, {len(validation.ids)} to validate on",
            f"{steps} steps an epoch, {steps * config.epochs} in all",
        ]
    )


def measure(network: Network, config: Config) -> Sizes:
    """Measure a network: its weights, and its activations for one slice."""
    kept = 0

    def count(module: nn.Module, given: object, output: object) -> None:
        nonlocal kept
        if isinstance(output, torch.Tensor):
            kept += output.nbytes

    hooks = [module.register_forward_hook(count) for module in network.modules() if not list(module.children())]
    network.eval()  # in training mode batch norm fails on one slice
    with torch.inference_mode():
        network(torch.zeros(1, 2 * config.neighbours + 1, config.image_size, config.image_size))
    for hook in hooks:
        hook.remove()
    weights = list(network.parameters())
    return Sizes(sum(each.numel() for each in weights), sum(each.nbytes for each in weights), kept)


def overfit(config: Config, fold: int, layout: Layout, n_slices: int) -> tuple[int, float, int]:
    """Train only on a few slices until the loss is near zero: (steps, loss, slices). Nothing is written.

    Half of the slices have a bleed, if there are enough. Without augmentation, dropout and warm-up this shows whether
    data, network, optimiser and learning rate work together. Raises UserError where they do not.
    """
    training, _ = read_fold_split(layout, fold, config.neighbours)
    few = _few(training, n_slices, config.seed)
    if len(few) < 2:
        raise UserError(f"too few slices to overfit, {n_slices}: expected 2 or more, which batch norm needs")
    accelerator = make_accelerator(config.precision)
    torch.manual_seed(config.seed)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = make_optimizer(config.optimizer, network)
    network, optimizer = accelerator.prepare(network, optimizer)
    dataset = EvalDataset(few.inputs, config)
    images = torch.stack([dataset[i][1] for i in range(len(few))]).to(accelerator.device)
    targets = torch.from_numpy(few.targets.astype(np.float32)).to(accelerator.device)
    weights = torch.tensor(list(config.label_weights.values()), device=accelerator.device)
    # sizes differ by one slice at most, because batch norm fails on a last batch of one slice
    batches = torch.arange(len(few)).tensor_split(-(-len(few) // config.batch_size))
    network.train()
    steps = progress(range(1, MOST_STEPS + 1), desc=f"{config.name}, {len(few)} slices", unit="step")
    value = float("nan")
    for step in steps:
        total = 0.0
        for batch in batches:
            fraction = len(batch) / len(images)
            loss = weighted_bce(network(images[batch]), targets[batch], weights) * fraction
            accelerator.backward(loss)
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        value = total
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} at step {step}; try a lower optimizer.lr")
        if value < NEAR_ZERO:
            return step, value, len(few)
    raise UserError(
        f"after {MOST_STEPS} steps on {len(few)} slices the loss is {value:.3f}, not below {NEAR_ZERO}: "
        "try a higher optimizer.lr, and look at the slices"
    )


def _few(slices: LabelledSlices, count: int, seed: int) -> LabelledSlices:
    """Choose `count` random slices, half of them with a bleed if there are enough."""
    order = np.random.default_rng(seed).permutation(len(slices))
    bleeds = order[slices.targets[order, 0] == 1]
    others = order[slices.targets[order, 0] == 0]
    chosen = [*bleeds[: count - min(count // 2, len(others))], *others[: count // 2]]
    return slices.take(np.array(chosen))
