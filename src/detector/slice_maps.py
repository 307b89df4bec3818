"""Class activation maps of single slices of the image store, by classifiers as training left them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from src.classify.inputs import find_inputs, network_input
from src.classify.network import build_network
from src.config import load_config
from src.detector.detector import BATCH, MAP_SIZE
from src.detector.explain import activation_map, mean_map
from src.files.layout import Layout
from src.train.checkpoint import load_checkpoint


class Checkpoint(NamedTuple):
    """A classifier of a fold: its resolved conf, and its weights."""

    conf: Path
    weights: Path


def slice_maps(
    checkpoints: Sequence[Checkpoint], layout: Layout, ids: list[str], size: int = MAP_SIZE
) -> np.ndarray | None:
    """The mean maps of training slices over some classifiers: (N, 6, size, size) float32 in [0, 1], as ids (N,).

    None where no classifier has such maps: see `explain`. Raises UserError for slices that the store lacks.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for checkpoint in checkpoints:
        config = load_config(checkpoint.conf)
        network = build_network(config, pretrained="none")
        load_checkpoint(checkpoint.weights, network)
        network = network.to(device).eval()
        inputs = find_inputs(layout, "train", config.neighbours, ids)
        maps = []
        for start in range(0, len(ids), BATCH):
            images = [network_input(inputs.read(i), config) for i in range(start, min(start + BATCH, len(ids)))]
            maps.append(activation_map(network, torch.from_numpy(np.stack(images)).to(device)))
        if maps and maps[0] is not None:
            found.append(torch.cat([each for each in maps if each is not None]))
    return mean_map(found, size) if found else None
