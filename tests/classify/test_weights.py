from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from src.classify.network import build_network
from src.config import NetworkConf
from src.errors import UserError

CLASSIFIERS = {"se_resnext50_32x4d": "last_linear", "efficientnet-b2": "_fc", "timm/resnet10t": "fc"}


@pytest.mark.parametrize(("architecture", "classifier"), CLASSIFIERS.items())
def test_a_files_weights_are_taken_but_for_another_tasks_classifier(
    tmp_path: Path, architecture: str, classifier: str
) -> None:
    source = build_network(NetworkConf(architecture=architecture, pretrained="none"), 64).backbone
    state = {key: value.clone().contiguous() for key, value in source.state_dict().items()}
    features = state[f"{classifier}.weight"].shape[1]
    state[f"{classifier}.weight"] = torch.zeros(1000, features)  # ImageNet's
    state[f"{classifier}.bias"] = torch.zeros(1000)
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        conf = NetworkConf(architecture=architecture, pretrained=str(tmp_path / name))
        loaded = build_network(conf, 64).backbone.state_dict()
        for key, value in loaded.items():
            if key.startswith(f"{classifier}."):
                assert value.shape[0] == 6
                assert value.abs().sum() > 0
            else:
                assert torch.equal(value, state[key]), key


def test_timms_twin_has_the_same_tensors_so_its_weights_serve() -> None:
    # what pretrained: imagenet relies on for se_resnext50_32x4d, whose own host is unreliable
    ours = build_network(NetworkConf(architecture="se_resnext50_32x4d", pretrained="none"), 64).backbone
    twin = timm.create_model("legacy_seresnext50_32x4d", num_classes=6)
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    twin.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(images), ours.eval()(images), atol=1e-5, rtol=1e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other = timm.create_model("resnet10t", num_classes=6).state_dict()
    other["conv1.0.weight"] = torch.zeros(1)
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"not of this architecture: they differ at conv1.0.weight"):
        build_network(NetworkConf(architecture="timm/resnet10t", pretrained=str(tmp_path / "w.pth")), 64)
    with pytest.raises(UserError, match=r"none.pth is missing; expected imagenet, none, or the path"):
        build_network(NetworkConf(architecture="timm/resnet10t", pretrained=str(tmp_path / "none.pth")), 64)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="no plain state dict"):
        build_network(NetworkConf(architecture="timm/resnet10t", pretrained=str(tmp_path / "text.pth")), 64)


class _Code:
    def __reduce__(self):
        return (print, ("a checkpoint is data, never code",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": _Code()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no plain state dict"):
        build_network(NetworkConf(architecture="timm/resnet10t", pretrained=str(tmp_path / "w.pth")), 64)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/resnet10t"])
def test_a_machine_without_access_is_told_what_to_do(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no cache, and a proxy that nobody answers at: as on a machine that is offline
    for cache in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(cache, str(tmp_path))
    for proxy in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be fetched .* give network.pretrained: none, or the path of a file"):
        build_network(NetworkConf(architecture=architecture), 64)
