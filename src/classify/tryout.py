"""What to try before a long training: what a conf amounts to, and whether its network can learn a handful of slices."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from src.classify.augment import Augmentation
from src.classify.dataset import PlainSlices
from src.classify.fit import steps_per_epoch
from src.classify.loop import make_accelerator
from src.classify.loss import weighted_bce
from src.classify.network import Network, build_network
from src.classify.optimise import MOMENTS, make_optimizer
from src.classify.split import Slices, read_split
from src.config import Config, dump_config
from src.errors import UserError
from src.files.layout import Layout
from src.progress import progress

NEAR_ZERO = 0.02  # a loss; the constant prior of 16 slices, half of them with a bleed, has some 0.5
MOST_STEPS = 400


@dataclass(frozen=True)
class Sizes:
    """What a network weighs."""

    parameters: int
    weight_bytes: int
    activation_bytes: int  # of one slice in fp32: what the backward pass keeps

    def training_bytes(self, config: Config) -> int:
        """An estimate of a training step's memory: weights, gradients, moments, average, and a batch's activations."""
        halves = 2 if config.precision in ("fp16", "bf16") else 1
        copies = 2 + MOMENTS.get(config.optimizer.name, 2) + (config.ema_decay is not None)
        return copies * self.weight_bytes + config.batch_size * self.activation_bytes // halves


def describe(config: Config, fold: int, layout: Layout) -> str:
    """The resolved conf, the network's size, and what an epoch on a fold amounts to, as text.

    Raises UserError for all in a conf that training would refuse, but for ImageNet's weights, which are not fetched.
    """
    training, validation = read_split(layout, fold, config.neighbours)
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
    """Look at a network's sizes, and those of all that it computes of a slice."""
    kept = 0

    def count(module: nn.Module, given: object, output: object) -> None:
        nonlocal kept
        if isinstance(output, torch.Tensor):
            kept += output.nbytes

    hooks = [module.register_forward_hook(count) for module in network.modules() if not list(module.children())]
    network.eval()  # batch norm makes nothing of one slice
    with torch.inference_mode():
        network(torch.zeros(1, 2 * config.neighbours + 1, config.image_size, config.image_size))
    for hook in hooks:
        hook.remove()
    weights = list(network.parameters())
    return Sizes(sum(each.numel() for each in weights), sum(each.nbytes for each in weights), kept)


def overfit(config: Config, fold: int, layout: Layout, n_slices: int) -> tuple[int, float, int]:
    """Train on a few slices alone until the loss is near zero: (steps, loss, slices). Nothing is written.

    Half of the slices have a bleed, where there are so many. No augmentation, dropout or warm-up: what is tried is
    whether data, network, optimiser and learning rate go together. Raises UserError where they do not.
    """
    training, _ = read_split(layout, fold, config.neighbours)
    few = _few(training, n_slices, config.seed)
    if len(few) < 2:
        raise UserError(f"--overfit {n_slices}: expected 2 slices or more, of which batch norm can make something")
    accelerator = make_accelerator(config.precision)
    torch.manual_seed(config.seed)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = make_optimizer(config.optimizer, network)
    network, optimizer = accelerator.prepare(network, optimizer)
    dataset = PlainSlices(few.stacks, config.image_size)
    images = torch.stack([dataset[i][1] for i in range(len(few))]).to(accelerator.device)
    targets = torch.from_numpy(few.targets.astype(np.float32)).to(accelerator.device)
    weights = torch.tensor(list(config.label_weights.values()), device=accelerator.device)
    # of one size, but for one slice: batch norm makes nothing of a last batch of one
    batches = torch.arange(len(few)).tensor_split(-(-len(few) // config.batch_size))
    network.train()
    steps = progress(range(1, MOST_STEPS + 1), desc=f"{config.name}, {len(few)} slices", unit="step")
    value = float("nan")
    for step in steps:
        total = 0.0
        for batch in batches:
            share = len(batch) / len(images)
            loss = weighted_bce(network(images[batch]), targets[batch], weights) * share
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
        "try a higher optimizer.lr, and look at the slices (python -m src.report.montage)"
    )


def _few(slices: Slices, count: int, seed: int) -> Slices:
    """Some slices, half of them with a bleed where there are so many."""
    order = np.random.default_rng(seed).permutation(len(slices))
    bleeds = order[slices.targets[order, 0] == 1]
    others = order[slices.targets[order, 0] == 0]
    chosen = [*bleeds[: count - min(count // 2, len(others))], *others[: count // 2]]
    return slices.take(np.array(chosen))
