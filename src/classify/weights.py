"""Initial weights of a backbone: ImageNet weights, or a file. As a command, fetch ImageNet weights in advance."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import load
from torch import nn

from src.arguments import Parser
from src.classify.downloaded import require_as_downloaded
from src.config import load_config
from src.errors import UserError, first_few, run_command, shortened
from src.files.checksum import read_sealed

State = dict[str, torch.Tensor]

IN_ORDER = "in-order:"  # before a path


def load_imagenet(backbone: nn.Module, architecture: str, image_size: int) -> None:
    """Load ImageNet weights, all but the classifier's. Raises UserError where they cannot be had unchanged."""
    _load(backbone, _fetch_imagenet(architecture, image_size), f"ImageNet's weights of {architecture}")


def load_weights(backbone: nn.Module, given: str) -> None:
    """Load weights from a .safetensors file or a state dict saved by torch, all but a classifier of another size.

    given: its path; or IN_ORDER and its path, for a file whose tensors have other names and the same order and shapes.
    Raises UserError where the file is missing, unreadable, or of another network.
    """
    path, in_order = given.removeprefix(IN_ORDER), given.startswith(IN_ORDER)
    if not Path(path).is_file():
        raise UserError(f"network.pretrained: {path} is missing; expected imagenet, none, or the path of a file")
    try:
        if path.endswith(".safetensors"):
            state = load(read_sealed(Path(path), advice="; give another file", foreign=True))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise ValueError("it holds other things than tensors by their names")
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a file of something else can make torch raise anything
        raise UserError(
            f"network.pretrained: {path} holds no plain state dict that can be read: {shortened(error)}"
        ) from error
    # a checkpoint of this pipeline holds the whole network, and the backbone's keys have a prefix there
    state, what = {key.removeprefix("backbone."): value for key, value in state.items()}, f"network.pretrained: {path}"
    if in_order:
        if path.endswith(".safetensors"):
            raise UserError(f"{what} keeps no order of its tensors; {IN_ORDER} is for state dicts saved by torch")
        if not _fits_in_order(backbone, state):
            raise UserError(f"{what} has other tensors than this architecture, by order and shape")
        state = dict(zip(backbone.state_dict(), state.values(), strict=True))
    elif not path.endswith(".safetensors") and _only_names_differ(backbone, state):
        raise UserError(
            f"{what} has other names than this architecture, and all of its {len(state)} tensors fit in order and "
            f"shape; where it is the same network, give {IN_ORDER}{path}"
        )
    _load(backbone, state, what)


def without_folder(given: str) -> str:
    """Where a training began (`network.pretrained`), without what a path says of the machine that it ran on."""
    in_order = IN_ORDER if given.startswith(IN_ORDER) else ""
    return in_order + Path(given.removeprefix(in_order)).name


def _fetch_imagenet(architecture: str, image_size: int) -> State:
    """Read ImageNet weights from the folder they were fetched to before, or fetch them."""
    try:
        return _imagenet_state(architecture, image_size)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights of {architecture} cannot be fetched ({error}); on a machine without access give "
            "network.pretrained: none, or the path of a file with the weights; or fetch them on another machine "
            "(src.classify.weights)"
        ) from error


def _imagenet_state(architecture: str, image_size: int) -> State:
    if architecture.startswith("timm/"):
        import timm

        name = architecture.removeprefix("timm/")
        return timm.create_model(name, pretrained=True, **size_of_input(name, image_size)).state_dict()
    url = _imagenet_url(architecture)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)  # as torch names it
    if known := path.is_file():
        require_as_downloaded(path)
    state: State = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    if not known:
        require_as_downloaded(path)
    return state


def _imagenet_url(architecture: str) -> str:
    if architecture == "se_resnext50_32x4d":
        # the same tensors with the same names as pretrainedmodels', from a host that is still available
        import timm

        return str(timm.get_pretrained_cfg_value("legacy_seresnext50_32x4d", "url"))
    from efficientnet_pytorch.utils import url_map

    return str(url_map[architecture])


def size_of_input(name: str, image_size: int) -> dict[str, Any]:
    """timm's arguments for the input size: none for a network that takes any size, as convolutional ones do."""
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}


def rgb_of_channels(count: int) -> list[int]:
    """The channel of an ImageNet network that each of `count` channels corresponds to: 0, 1, 2, 0, 1, ..."""
    return [channel % 3 for channel in range(count)]


def _fit_first_layer(backbone: nn.Module, state: State) -> State:
    """Repeat the first layer's weights for three channels over the number of channels that the backbone has.

    They are scaled so that equal channels give the same output as before; timm does the same.
    """
    name = next(f"{name}.weight" for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    channels, given = backbone.get_parameter(name).shape[1], state.get(name)
    if given is None or given.ndim != 4 or given.shape[1] != 3 or channels == 3:
        return state
    return state | {name: given[:, rgb_of_channels(channels)] * (3 / channels)}


def _load(backbone: nn.Module, state: State, what: str) -> None:
    own, state = backbone.state_dict(), _fit_first_layer(backbone, state)
    # a classifier of another shape is for another task and keeps its random weights; everything else must fit
    classifier = {key for key in _classifier_keys(backbone) if key in state and state[key].shape != own[key].shape}
    fitting = {key: value for key, value in state.items() if key not in classifier}
    differing = (fitting.keys() ^ (own.keys() - classifier)) | {
        key for key in fitting.keys() & own.keys() if fitting[key].shape != own[key].shape
    }
    # weights saved before 2018 lack these counters, which are only used with a momentum of None
    differing = {key for key in differing if not key.endswith("num_batches_tracked")}
    if differing:
        raise UserError(f"{what} are not of this architecture: they differ at {first_few(sorted(differing))}")
    backbone.load_state_dict({**own, **fitting})


def _fits_in_order(backbone: nn.Module, state: State) -> bool:
    """Whether weights have a network's shapes, tensor by tensor, whatever their names; but for a classifier's size."""
    own = backbone.state_dict()
    if len(own) != len(state):
        return False
    renamed, classifier = dict(zip(own, state.values(), strict=True)), _classifier_keys(backbone)
    fitted = _fit_first_layer(backbone, renamed)
    return all(
        fitted[key].ndim == value.ndim if key in classifier else fitted[key].shape == value.shape
        for key, value in own.items()
    )


def _only_names_differ(backbone: nn.Module, state: State) -> bool:
    return state.keys() != backbone.state_dict().keys() and _fits_in_order(backbone, state)


def _classifier_keys(backbone: nn.Module) -> list[str]:
    """The names of the last linear layer's tensors."""
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    return [f"{linear[-1]}.weight", f"{linear[-1]}.bias"] if linear else []


def main() -> None:
    """Read the arguments, fetch the weights and report them."""
    parser = Parser(
        prog="python -m src.classify.weights",
        description="Fetch the ImageNet weights of confs in advance for a machine that is offline. Run this on a "
        "machine that is online, with TORCH_HOME and HF_HOME set to folders that both machines can read or that you "
        "copy, and set both variables on the offline machine too.",
        epilog="example: python -m src.classify.weights conf/*.yaml",
    )
    parser.add_argument("conf", type=Path, nargs="+", help="conf files, such as conf/efficientnet-b2.yaml")
    parser.add_overrides()
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
