"""ONNX models of a detector: what they give, the folder that holds them, and what is refused."""

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from src.classify.network import build_network
from src.config import Config, load_sequence_config
from src.ct.series import Series
from src.detector import Detector
from src.detector import onnx as runtime_module
from src.detector.card import model_card
from src.detector.collect import Selection, collect
from src.detector.folder import Network, model_files, read_folder, write_folder
from src.detector.onnx_export import ClassifierModel, SequenceModel, _position_features, export_model, export_models
from src.ensemble.recipe import Recipe
from src.errors import UserError
from src.sequence.components import PrincipalComponents
from src.sequence.network import SequenceNetwork
from src.sequence.series import position_features
from tests.detector.conftest import Trained

FACTS = {"network": "net fold 0 epoch 3"}


def _with_models(trained: Trained, folder: Path, members: str, networks: int | None = None) -> Path:
    """A detector of fold 0 with ONNX models."""
    manifest = trained.submit(members, Recipe(smooth_mm=5.0))
    description, weights = collect(manifest, trained.layout, Selection(folds=[0], epochs=[3], networks=networks))
    write_folder(folder, description, weights, model_card(description), export_models(description, weights))
    return folder


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers, one with adjacent slices and rotated views, and sequence networks over both."""
    return _with_models(trained, tmp_path_factory.mktemp("onnx") / "detector", "all")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "detector")


def _difference(folder: Path, series: list[Series]) -> float:
    by_torch, by_onnx = Detector.load(folder), Detector.load(folder, runtime="onnx")
    return max(float(np.abs(by_torch(each) - by_onnx(each)).max()) for each in series)


def test_it_predicts_what_pytorch_predicts(exported: Path, test_series: list[Series]) -> None:
    series = test_series[0]
    unknown = series.z.copy()
    unknown[1] = np.nan
    assert _difference(exported, [*test_series, Series(series.pixels, unknown, series.ids)]) < 1e-4
    spread = Detector.load(exported, runtime="onnx")(series).std(axis=0)
    assert spread.max() > 1e-3  # else the comparison would show nothing


def test_with_principal_components_and_a_transformer(
    trained_on_components: Trained, test_series: list[Series], tmp_path: Path
) -> None:
    folder = _with_models(trained_on_components, tmp_path / "detector", "last", 1)
    assert [path.name for path in sorted((folder / "onnx").iterdir())] == [
        "se_resnext50_32x4d+transformer.fold0.epoch2.onnx",
        "se_resnext50_32x4d.fold0.epoch3.onnx",
    ]
    assert _difference(folder, test_series) < 1e-4


def test_maps_are_those_of_pytorch(exported: Path, test_series: list[Series]) -> None:
    by_torch = Detector.load(exported).activation_maps(test_series[0])
    by_onnx = Detector.load(exported, runtime="onnx").activation_maps(test_series[0])
    assert by_torch is not None
    assert by_onnx is not None
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)


def test_pytorch_and_its_weights_are_not_used(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "__call__", None)
    monkeypatch.setattr("src.detector.detector.read_weights", None)
    random = np.random.default_rng(0)
    pixels = [random.integers(-200, 301, (48, 40)).astype(np.int16) for _ in range(3)]
    series = Series(pixels, np.arange(3.0), ["a", "b", "c"])
    assert np.isfinite(Detector.load(exported, runtime="onnx")(series)).all()


@pytest.mark.parametrize("architecture", ["se_resnext50_32x4d", "efficientnet-b2", "timm/test_vit"])
def test_architectures(make_config: Callable[..., Config], architecture: str) -> None:
    size = 160 if "vit" in architecture else 64
    config = make_config(f"network.architecture={architecture}", f"image_size={size}", "neighbours=1")
    torch.manual_seed(0)
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the batch below, without which all slices look the same
    with torch.no_grad():
        network(torch.rand(4, 3, size, size))
        network.eval().classifier.weight.mul_(20)
    session = onnxruntime.InferenceSession(export_model(ClassifierModel(network, config).eval(), FACTS))
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("hu", ["N", 3, size, size], "tensor(float)")
    has_maps = "timm" not in architecture
    names = ["probabilities", "embeddings", *["local_logits"] * has_maps]
    assert [each.name for each in session.get_outputs()] == names
    hu = np.random.default_rng(0).integers(-200, 301, (5, 3, size, size)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy((hu + 200) / 500)).sigmoid().numpy()
    found = dict(zip(names, session.run(None, {"hu": hu}), strict=True))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)
    last = network.classifier
    by_hand = found["embeddings"] @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(torch.from_numpy(by_hand).sigmoid(), expected, atol=1e-4)
    assert expected.std(axis=0).max() > 1e-3


@pytest.mark.parametrize("name", ["gru", "lstm", "transformer"])
def test_sequence_networks_take_any_number_of_slices(repository: Path, name: str) -> None:
    config = load_sequence_config(repository / f"conf/sequence/{name}.yaml", ["model.width=8"])
    torch.manual_seed(0)
    network = SequenceNetwork(config, 4, torch.zeros(6)).eval()
    nn.init.normal_(network.head[-1].weight)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    axes = random.normal(size=(4, 12)).astype(np.float32)
    components = PrincipalComponents(random.normal(size=12).astype(np.float32), axes)
    session = onnxruntime.InferenceSession(export_model(SequenceModel(network, components, 12).eval(), FACTS))
    for count in (1, 2, 40):
        embeddings = random.normal(size=(count, 12)).astype(np.float32)
        probabilities, z = random.uniform(size=(count, 6)).astype(np.float32), random.uniform(0, 9, count).cumsum()
        given = {"embeddings": embeddings, "classifier_probabilities": probabilities, "z": z}
        reduced = torch.from_numpy(components(embeddings)).half().float()
        logits = torch.from_numpy(np.log(probabilities / (1 - probabilities)))
        places = [torch.from_numpy(position_features(z)), torch.from_numpy((z - z[0]).astype(np.float32))]
        batch = [each[None] for each in (reduced, logits, *places, torch.ones(count, dtype=torch.bool))]
        with torch.inference_mode():
            expected = network(*batch)[0].sigmoid().numpy()
        (found,) = session.run(None, given)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.abs(found - probabilities).max() > 1e-2


@pytest.mark.parametrize("z", [[3.0], [3.0, 3.0], [-800.5, -800, -790.25, -790.25, 10]])
def test_position_features_are_those_of_the_pipeline(z: list[float]) -> None:
    found = _position_features(torch.tensor(z, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, position_features(np.array(z)), atol=1e-6)


def test_a_model_is_the_same_bytes_each_time_and_says_what_it_is(exported: Path) -> None:
    description, weights = read_folder(exported)
    for name, data in export_models(description, weights):
        assert (exported / name).read_bytes() == data, name
        assert str(Path.cwd()).encode() not in data  # nor where it was made
    model = onnx.load(exported / "onnx/adjacent.fold0.epoch3.onnx")
    facts = {each.key: each.value for each in model.metadata_props}
    (network,) = (each for each in description.networks if each.name == "adjacent")
    assert facts["network"] == "adjacent fold 0 epoch 3"
    assert facts["checkpoint"] == network.checkpoint
    assert facts["labels"].startswith("any epidural")


def test_a_detector_without_models_is_what_it_was(exported: Path, tmp_path: Path) -> None:
    description, weights = read_folder(exported)
    plain = tmp_path / "plain"
    write_folder(plain, description, weights, model_card(description))
    without, record = (json.loads((each / "detector.json").read_text()) for each in (plain, exported))
    assert (without["format"], record["format"]) == (1, 2)
    assert not (plain / "onnx").exists()
    added = set(record.pop("files")) - set(without.pop("files"))
    assert added == set(model_files(description.networks).values())
    for each in (without, record):
        del each["format"], each["sha256"]
    assert without == record
    assert Detector.load(plain, runtime="auto").runtime.provenance["runtime"] == "torch"
    with pytest.raises(UserError, match="has no ONNX models, which the runtime onnx needs"):
        Detector.load(plain, runtime="onnx")


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_models_are_checked_like_weights(copy: Path, runtime: str) -> None:
    path = copy / "onnx/adjacent.fold0.epoch3.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"adjacent.fold0.epoch3.onnx is damaged: it does not have the checksum"):
        Detector.load(copy, runtime=runtime)
    path.unlink()
    with pytest.raises(UserError, match=r"lacks onnx/adjacent.fold0.epoch3.onnx"):
        Detector.load(copy, runtime=runtime)


def test_what_this_machine_has_not(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="runtime tflite: expected auto or torch or onnx"):
        Detector.load(exported, runtime="tflite")
    with pytest.raises(UserError, match="device cuda: the runtime onnx computes on the cpu"):
        Detector.load(exported, runtime="onnx", device="cuda")
    monkeypatch.setattr(runtime_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package onnxruntime, which is not installed"):
        Detector.load(exported, runtime="onnx")
    assert Detector.load(exported, runtime="auto", device="cpu").runtime.provenance["runtime"] == "torch"


def test_nobody_pays_who_does_not_use_it(repository: Path) -> None:
    for path in (repository / "src").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # at the top of a module
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [each.name for each in node.names] + [getattr(node, "module", None) or ""]
                assert not {name.split(".")[0] for name in names} & {"onnx", "onnxruntime"}, path


class _Odd(nn.Module):
    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        if self.how == "unknown operator":
            return torch.special.bessel_j0(logits)
        return logits * len(images)  # a trace keeps the number of slices that it saw


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unknown operator", "cannot be exported to ONNX"),
        ("other numbers", "gives other probabilities than its network"),
    ],
)
def test_a_network_that_cannot_be_exported_is_one_line(config: Config, how: str, words: str) -> None:
    model = ClassifierModel(build_network(config).eval(), config)
    model.has_embeddings, model.has_maps, model.outputs = False, False, ("probabilities",)
    model.network = _Odd(model.network, how)  # type: ignore[assignment]
    with pytest.raises(UserError, match=words) as caught:
        export_model(model.eval(), FACTS)
    assert "net fold 0 epoch 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_networks_of_two_seeds_have_two_files() -> None:
    one, other, third = (
        Network("x", 0, 3, "a" * 64, "d"),
        Network("x", 0, 3, "b" * 64, "d"),
        Network("x", 1, 3, "c", "d"),
    )
    assert list(model_files([one, other, third]).values()) == [
        "onnx/x.fold0.epoch3.aaaaaaaaaaaa.onnx",
        "onnx/x.fold0.epoch3.bbbbbbbbbbbb.onnx",
        "onnx/x.fold1.epoch3.onnx",
    ]
