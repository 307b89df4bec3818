"""Several networks of one architecture in memory together, so that a slice is read once for all of them."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from src.classify.checkpoint import load_checkpoint


def how_many_fit(accelerator: Accelerator, network: nn.Module) -> int:
    """How many of a network fit into half of the free memory; the other half is for what they compute and read."""
    weights = sum(each.nbytes for each in network.state_dict().values())
    if accelerator.device.type == "cuda":
        free = torch.cuda.mem_get_info(accelerator.device)[0]
    else:
        free = psutil.virtual_memory().available // accelerator.num_processes
    return int(min(gather_object([max(1, free // 2 // weights)])))  # the processes must agree


def load_several(accelerator: Accelerator, network: nn.Module, checkpoints: Sequence[Path]) -> list[nn.Module]:
    """A copy of a network for each checkpoint, ready to predict."""
    networks = []
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint, network)
        networks.append(accelerator.prepare_model(deepcopy(network), evaluation_mode=True))
    return networks
