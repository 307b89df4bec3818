import errno
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.classify import weights
from src.classify.downloaded import record_of, require_as_downloaded
from src.classify.network import build_network
from src.config import Config
from src.errors import UserError

Make = Callable[..., Config]
CLASSIFIERS = {"se_resnext50_32x4d": "last_linear", "efficientnet-b2": "_fc", "timm/resnet10t": "fc"}


@pytest.mark.parametrize(("architecture", "classifier"), CLASSIFIERS.items())
def test_a_files_weights_are_taken_but_for_another_tasks_classifier(
    make_config: Make, tmp_path: Path, architecture: str, classifier: str
) -> None:
    source = build_network(make_config(f"network.architecture={architecture}")).backbone
    state = {key: value.clone().contiguous() for key, value in source.state_dict().items()}
    features = state[f"{classifier}.weight"].shape[1]
    state[f"{classifier}.weight"] = torch.zeros(1000, features)  # ImageNet's
    state[f"{classifier}.bias"] = torch.zeros(1000)
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        config = make_config(f"network.architecture={architecture}", f"network.pretrained={tmp_path / name}")
        loaded = build_network(config).backbone.state_dict()
        for key, value in loaded.items():
            if key.startswith(f"{classifier}."):
                assert value.shape[0] == 6
                assert value.abs().sum() > 0
            else:
                assert torch.equal(value, state[key]), key


def test_the_same_tensors_by_other_names_are_taken_in_order_where_asked(make_config: Make, tmp_path: Path) -> None:
    conf = "network.architecture=timm/resnet10t"
    torch.manual_seed(1)
    source = build_network(make_config(conf)).backbone.state_dict()
    renamed = {f"stem.{i}": value.clone().contiguous() for i, value in enumerate(source.values())}
    last = list(renamed)[-2]
    renamed[last] = torch.zeros(1000, renamed[last].shape[1])
    renamed[list(renamed)[-1]] = torch.zeros(1000)
    torch.save(renamed, tmp_path / "w.pth")
    save_file(renamed, tmp_path / "w.safetensors")

    with pytest.raises(UserError, match=rf"all of its {len(source)} tensors fit in order and shape.*in-order:"):
        build_network(make_config(conf, f"network.pretrained={tmp_path / 'w.pth'}"))
    loaded = build_network(make_config(conf, f"network.pretrained=in-order:{tmp_path / 'w.pth'}")).backbone.state_dict()
    assert all(torch.equal(loaded[key], source[key]) for key in list(source)[:-2])
    assert loaded["fc.weight"].shape == source["fc.weight"].shape

    with pytest.raises(UserError, match="keeps no order of its tensors"):
        build_network(make_config(conf, f"network.pretrained=in-order:{tmp_path / 'w.safetensors'}"))
    torch.save(dict(list(renamed.items())[1:]), tmp_path / "w.pth")
    with pytest.raises(UserError, match="has other tensors than this architecture, by order and shape"):
        build_network(make_config(conf, f"network.pretrained=in-order:{tmp_path / 'w.pth'}"))
    with pytest.raises(UserError, match=r"w\.pth are not of this architecture"):
        build_network(make_config(conf, f"network.pretrained={tmp_path / 'w.pth'}"))


def test_timms_twin_has_the_same_tensors_so_its_weights_serve(make_config: Make) -> None:
    # what pretrained: imagenet relies on for se_resnext50_32x4d, whose own host is unreliable
    ours = build_network(make_config("network.architecture=se_resnext50_32x4d")).backbone
    twin = timm.create_model("legacy_seresnext50_32x4d", num_classes=6)
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    twin.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(images), ours.eval()(images), atol=1e-5, rtol=1e-5)


def test_efficientnet_b2_is_timms_tf_efficientnet_b2_at_its_native_size(make_config: Make) -> None:
    ours = build_network(make_config("network.architecture=efficientnet-b2", "image_size=260")).backbone
    twin = timm.create_model("tf_efficientnet_b2", num_classes=6)
    # other names, in the same order, but for the layers within a block of squeeze and excitation
    own = ours.state_dict()
    twin.load_state_dict({name: own[_name_here(name)] for name in twin.state_dict()})
    assert {_name_here(name) for name in twin.state_dict()} == set(own)
    images = torch.randn(2, 3, 260, 260)
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(images), ours.eval()(images), atol=1e-5, rtol=1e-5)


REPEATS = (2, 3, 3, 4, 4, 5, 2)  # blocks of each of efficientnet-b2's stages


def _name_here(name: str) -> str:
    """efficientnet_pytorch's name of a tensor, from timm's."""
    block = re.match(r"blocks\.(\d+)\.(\d+)\.(.+)", name)
    if not block:
        ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
        layer, rest = name.split(".", 1)
        return f"{ends[layer]}.{rest}"
    stage, position, layer = int(block[1]), int(block[2]), block[3]
    layers = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    layers |= {
        "se.conv_reduce": "_se_reduce",
        "se.conv_expand": "_se_expand",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    if stage == 0:  # nothing to expand: timm counts from what is there
        layers |= {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    kind, rest = re.fullmatch(r"(se\.\w+|\w+)\.(.+)", layer).groups()  # type: ignore[union-attr]
    return f"_blocks.{sum(REPEATS[:stage]) + position}.{layers[kind]}.{rest}"


@pytest.mark.parametrize("architecture", CLASSIFIERS)
@pytest.mark.parametrize("channels", [["neighbours=1"], ["windows=[{level: 40, width: 80}]"]], ids=["9", "1"])
def test_the_first_layer_serves_other_channels(
    make_config: Make, tmp_path: Path, architecture: str, channels: list[str]
) -> None:
    of_three = make_config(f"network.architecture={architecture}", "image_size=64", "network.dropout=0")
    three = build_network(of_three)
    torch.save(three.backbone.state_dict(), tmp_path / "w.pth")
    start = f"network.pretrained={tmp_path}/w.pth"
    more = build_network(make_config(f"network.architecture={architecture}", "image_size=64", *channels, start))
    image = torch.rand(1, 1, 64, 64)
    if channels == ["neighbours=1"]:
        # of a slice and two copies of it the network sees what it saw of the slice alone
        with torch.inference_mode():
            torch.testing.assert_close(
                more.eval()(image.expand(1, 3, 64, 64)), three.eval()(image), atol=1e-5, rtol=1e-4
            )
    else:
        assert more.eval()(image).shape == (1, 6)


def test_weights_are_fetched_ahead(
    make_config: Make, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = build_network(make_config("network.architecture=efficientnet-b2")).backbone
    torch.save(source.state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    host = (tmp_path / "w.pth").rename(tmp_path / f"b2-{digest[:8]}.pth")
    monkeypatch.setattr("src.classify.weights._imagenet_url", lambda architecture: host.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "scratch.yaml").write_text(
        f"base: {repository}/conf/efficientnet-b2.yaml\nnetwork: {{pretrained: none}}"
    )
    confs = [str(repository / "conf/efficientnet-b2.yaml"), str(tmp_path / "scratch.yaml")]
    monkeypatch.setattr(sys, "argv", ["weights", *confs])
    weights.main()
    said = capsys.readouterr().out.splitlines()[-3:]  # after what torch says of the download
    assert said[0] == f"{confs[0]}: {len(source.state_dict())} tensors of efficientnet-b2"
    assert said[1] == f"{confs[1]}: starts from none; nothing to fetch"
    assert f"set TORCH_HOME and HF_HOME to {tmp_path}/torch and " in said[2]
    host.unlink()  # the machine is offline now
    cached = tmp_path / "torch/hub/checkpoints" / host.name
    assert record_of(cached).read_text() == f"{digest}  {host.name}\n"
    network = build_network(make_config("network.architecture=efficientnet-b2", "network.pretrained=imagenet"))
    for key, value in source.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[key], value), key
    record_of(cached).write_text(f"{digest[:8]}{'0' * 56}  {host.name}\n")
    with pytest.raises(UserError, match="was changed: expected a SHA-256 of"):
        build_network(make_config("network.architecture=efficientnet-b2", "network.pretrained=imagenet"))


def test_downloaded_weights_that_change_are_named(tmp_path: Path) -> None:
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()
    path = tmp_path / f"net-{digest[:8]}.pth"
    path.write_bytes(data)
    require_as_downloaded(path)
    require_as_downloaded(path)
    record_of(path).write_text("torn")
    with pytest.raises(UserError, match="holds no SHA-256; delete it if you trust"):
        require_as_downloaded(path)
    other = digest[:8] + "0" * 56  # as of a file with the same first digits
    record_of(path).write_text(f"{other}  {path.name}\n")
    with pytest.raises(
        UserError, match=rf"net-.*was changed: expected a SHA-256 of {other}, found {digest}; delete it"
    ):
        require_as_downloaded(path)
    record_of(path).unlink()
    path.write_bytes(b"others")  # before it was ever loaded
    with pytest.raises(UserError, match=f"expected a SHA-256 of {digest[:8]}, found "):
        require_as_downloaded(path)
    assert not record_of(path).exists()


def test_a_folder_for_reading_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("src.classify.downloaded.replacing", refuse)
    (tmp_path / "w.pth").write_bytes(b"weights")
    require_as_downloaded(tmp_path / "w.pth")
    assert (
        "w.pth.sha256: the SHA-256 of these weights cannot be recorded (Permission denied)" in capsys.readouterr().err
    )


def test_weights_that_do_not_fit_are_refused(make_config: Make, tmp_path: Path) -> None:
    other = timm.create_model("resnet10t", num_classes=6).state_dict()
    other["conv1.0.weight"] = torch.zeros(1)
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"not of this architecture: they differ at conv1.0.weight"):
        build_network(make_config("network.architecture=timm/resnet10t", f"network.pretrained={tmp_path}/w.pth"))
    with pytest.raises(UserError, match=r"none.pth is missing; expected imagenet, none, or the path"):
        build_network(make_config(f"network.pretrained={tmp_path}/none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="no plain state dict"):
        build_network(make_config(f"network.pretrained={tmp_path}/text.pth"))


class _Code:
    def __reduce__(self):
        return (print, ("a checkpoint is data, never code",))


def test_a_file_that_would_run_code_is_refused(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": _Code()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no plain state dict"):
        build_network(make_config(f"network.pretrained={tmp_path}/w.pth"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
def test_a_machine_without_access_is_told_what_to_do(
    make_config: Make, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no cache, and a proxy that nobody answers at: as on a machine that is offline
    for cache in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(cache, str(tmp_path))
    for proxy in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be fetched .* give network.pretrained: none, or the path of a file"):
        build_network(make_config(f"network.architecture={architecture}", "network.pretrained=imagenet"))
