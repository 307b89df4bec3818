"""Weights that a backbone starts from: ImageNet's, or a file's. As a command, fetch ImageNet's ahead."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from src.arguments import Parser
from src.config import load_config
from src.errors import UserError, first_few, run_command

State = dict[str, torch.Tensor]


def load_imagenet(backbone: nn.Module, architecture: str, image_size: int) -> None:
    """Load ImageNet's weights, all but the classifier. Raises UserError where they cannot be fetched."""
    _load(backbone, _fetch_imagenet(architecture, image_size), f"ImageNet's weights of {architecture}")


def load_weights(backbone: nn.Module, path: str) -> None:
    """Load weights from a .safetensors file or a state dict saved by torch, all but a classifier of other size.

    Raises UserError where the file is missing, unreadable, or of another network.
    """
    if not Path(path).is_file():
        raise UserError(f"network.pretrained: {path} is missing; expected imagenet, none, or the path of a file")
    try:
        if path.endswith(".safetensors"):
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # a checkpoint of this pipeline holds the whole network, of which the backbone is a part
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, AttributeError, UnpicklingError) as error:
        raise UserError(f"network.pretrained: {path} holds no plain state dict that can be read: {error}") from error
    _load(backbone, state, f"network.pretrained: {path}")


def _fetch_imagenet(architecture: str, image_size: int) -> State:
    """Read ImageNet's weights from where they were fetched to before, or fetch them."""
    try:
        return _imagenet_state(architecture, image_size)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights of {architecture} cannot be fetched ({error}); on a machine without access give "
            "network.pretrained: none, or the path of a file with the weights, or fetch them elsewhere: "
            "python -m src.classify.weights -h"
        ) from error


def _imagenet_state(architecture: str, image_size: int) -> State:
    if architecture.startswith("timm/"):
        import timm

        name = architecture.removeprefix("timm/")
        return timm.create_model(name, pretrained=True, **size_of_input(name, image_size)).state_dict()
    state: State = torch.hub.load_state_dict_from_url(
        _imagenet_url(architecture), map_location="cpu", check_hash=True, weights_only=True
    )
    return state


def _imagenet_url(architecture: str) -> str:
    if architecture == "se_resnext50_32x4d":
        # the same tensors under the same names as pretrainedmodels', from a host that answers
        import timm

        return str(timm.get_pretrained_cfg_value("legacy_seresnext50_32x4d", "url"))
    from efficientnet_pytorch.utils import url_map

    return str(url_map[architecture])


def size_of_input(name: str, image_size: int) -> dict[str, Any]:
    """What timm wants to be told of the input's size: nothing for a network that takes any, as convolutions do."""
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}


def rgb_of_channels(count: int) -> list[int]:
    """Which of an ImageNet network's three channels each of `count` channels stands for: 0, 1, 2, 0, 1, ..."""
    return [channel % 3 for channel in range(count)]


def _fit_first_layer(backbone: nn.Module, state: State) -> State:
    """Spread the first layer's weights for three channels over as many as the backbone has.

    Scaled so that equal channels come to the same as before; this is how timm does it too.
    """
    name = next(f"{name}.weight" for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    channels, given = backbone.get_parameter(name).shape[1], state.get(name)
    if given is None or given.ndim != 4 or given.shape[1] != 3 or channels == 3:
        return state
    return state | {name: given[:, rgb_of_channels(channels)] * (3 / channels)}


def _load(backbone: nn.Module, state: State, what: str) -> None:
    own, state = backbone.state_dict(), _fit_first_layer(backbone, state)
    # the classifier of another task has another shape: it starts at random, everything else must fit
    classifier = {key for key in _classifier_keys(backbone) if key in state and state[key].shape != own[key].shape}
    fitting = {key: value for key, value in state.items() if key not in classifier}
    differing = (fitting.keys() ^ (own.keys() - classifier)) | {
        key for key in fitting.keys() & own.keys() if fitting[key].shape != own[key].shape
    }
    # weights saved before 2018 lack these counters, which only a momentum of None would use
    differing = {key for key in differing if not key.endswith("num_batches_tracked")}
    if differing:
        raise UserError(f"{what} are not of this architecture: they differ at {first_few(sorted(differing))}")
    backbone.load_state_dict({**own, **fitting})


def _classifier_keys(backbone: nn.Module) -> list[str]:
    """The names of the last linear layer's tensors."""
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    return [f"{linear[-1]}.weight", f"{linear[-1]}.bias"] if linear else []


def main() -> None:
    """Read arguments, fetch, report."""
    parser = Parser(
        prog="python -m src.classify.weights",
        description="Fetch ImageNet's weights of some confs ahead, for a machine that is offline: run it on one that "
        "is not, with TORCH_HOME and HF_HOME set to folders that both see or that are copied, and set them there too.",
        epilog="example: python -m src.classify.weights conf/*.yaml",
    )
    parser.add_argument("conf", type=Path, nargs="+", help="files of conf/")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the confs"
    )
    args = parser.parse_args()
    for path in args.conf:
        config = load_config(path, args.set)
        conf = config.network
        if conf.pretrained != "imagenet":
            print(f"{path}: starts from {conf.pretrained}; nothing to fetch")
            continue
        count = len(_fetch_imagenet(conf.architecture, config.image_size))
        print(f"{path}: {count} tensors of {conf.architecture}")
    homes = Path(torch.hub.get_dir()).parent, Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    print(f"set TORCH_HOME and HF_HOME to {homes[0]} and {homes[1]}, or copies of them, on the machine that is offline")


if __name__ == "__main__":
    run_command(main)
