"""Optimiser, learning-rate schedule, and moving average of the weights."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from src.config import OptimizerConf, SchedulerConf
from src.errors import UserError, first_few


def make_optimizer(conf: OptimizerConf, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a conf over a network's parameters.

    Raises UserError for an unknown name, for an argument that it does not have or that fails in a step, and for apex's
    optimiser where apex or a GPU is missing.
    """
    if conf.name not in OPTIMIZERS:
        raise UserError(f"optimizer.name: {conf.name} is unknown; expected one of {', '.join(OPTIMIZERS)}")
    make = OPTIMIZERS[conf.name]()
    known = list(inspect.signature(make).parameters)[1:]
    unknown = [key for key in conf.arguments if key not in known]
    if unknown:
        raise UserError(
            f"optimizer.arguments: {conf.name} has no argument {first_few(unknown)}; it has {', '.join(known)}"
        )
    arguments = {"lr": conf.lr, "weight_decay": conf.weight_decay, **conf.arguments}
    try:
        _try_steps(make, arguments)
        return make(network.parameters(), **arguments)
    except (TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
        raise UserError(f"optimizer: {conf.name}: {error}") from error


def _try_steps(make: Callable[..., torch.optim.Optimizer], arguments: dict[str, Any]) -> None:
    """Step twice with a dummy weight on the training device: torch checks some arguments only in its steps."""
    weight = nn.Parameter(torch.ones(1, device="cuda" if torch.cuda.is_available() else "cpu"))
    optimizer = make([weight], **arguments)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()


def _fused_adam() -> Callable[..., torch.optim.Optimizer]:
    """NVIDIA apex's Adam, one kernel for all weights. Its weight decay is that of AdamW unless adam_w_mode is false."""
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise UserError(
            "optimizer.name: FusedAdam comes with NVIDIA apex, which is not installed (the package named apex on PyPI "
            "is another; see https://github.com/NVIDIA/apex); without it give Adam or AdamW"
        ) from error
    if not torch.cuda.is_available():
        raise UserError("optimizer.name: FusedAdam runs on a CUDA device only; give Adam or AdamW")
    make: Callable[..., torch.optim.Optimizer] = FusedAdam
    return make


OPTIMIZERS: dict[str, Callable[[], Callable[..., torch.optim.Optimizer]]] = {
    "Adam": lambda: torch.optim.Adam,
    "AdamW": lambda: torch.optim.AdamW,
    "NAdam": lambda: torch.optim.NAdam,
    "RAdam": lambda: torch.optim.RAdam,
    "SGD": lambda: torch.optim.SGD,
    "FusedAdam": _fused_adam,
}


MOMENTS = {"SGD": 1}  # tensors, each as large as the weights, that an optimiser keeps; two if it is not listed


def make_scheduler(
    conf: SchedulerConf, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler that sets the learning rate of each step from the conf."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: conf.factor(step, steps_per_epoch))


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and of its batch norm's statistics.

    The first update copies the weights; each later update keeps the fraction `decay` of the average.
    """
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
