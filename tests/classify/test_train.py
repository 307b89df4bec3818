import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import read_fold_split
from src.classify.network import build_network
from src.classify.predict import predict
from src.classify.train import train
from src.classify.tta import IDENTITY
from src.config import Config, dump_config
from src.errors import UserError
from src.evaluate.score import weighted_log_loss
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.files.tables import write_table
from src.labels import LABELS
from src.train.checkpoint import load_checkpoint, read_metadata


def test_what_training_leaves(trained: tuple[Config, Layout]) -> None:
    config, layout = trained
    folder = layout.fold(config.name, 0)
    assert folder.path == layout.root / "model/se_resnext50_32x4d/fold0"
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "conf.yaml",
        "curves",
        "epoch1.safetensors",
        "epoch2.safetensors",
        "epoch3.safetensors",
        "metrics.csv",
        "versions.yaml",
    ]
    metadata = read_metadata(folder.checkpoint(2), ClassifierMetadata)
    assert (metadata.conf, metadata.architecture) == (config.name, "timm/test_efficientnet")
    assert (metadata.fold, metadata.epoch) == (0, 2)
    metrics = pd.read_csv(folder.metrics)
    assert metrics["epoch"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(metrics["lr"], [1e-3, 1e-3, 1e-3 * 2 / 3], rtol=1e-5)
    assert metrics["train"].iloc[-1] < metrics["train"].iloc[0]
    for kind in ("valid", "auc", "average_precision"):
        assert {f"{kind}_{label}" for label in LABELS} <= set(metrics.columns)
    assert metrics["waiting_fraction"].between(0, 1).all()


def test_metrics_are_those_of_the_checkpoints_predictions(trained: tuple[Config, Layout]) -> None:
    config, layout = trained
    one_view = config.model_copy(update={"tta": (IDENTITY,)})  # as in training's validation
    predict(one_view, [0], ["valid"], [1, 2, 3], layout)
    _, validation = read_fold_split(layout, 0)
    for epoch, expected in enumerate(pd.read_csv(layout.fold(config.name, 0).metrics)["valid"], start=1):
        predictions = read_predictions(layout.fold(config.name, 0).predictions("valid", epoch))
        assert predictions.ids.tolist() == validation.ids
        assert weighted_log_loss(validation.targets, predictions.probabilities) == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(trained: tuple[Config, Layout], layout: Layout) -> None:
    config, first = trained
    train(config.model_copy(update={"workers": 1}), 0, layout)
    for epoch in (1, 2, 3):
        one = first.fold(config.name, 0).checkpoint(epoch)
        assert file_sha256(one) == file_sha256(layout.fold(config.name, 0).checkpoint(epoch))


def test_another_seed_gives_others(trained: tuple[Config, Layout], layout: Layout) -> None:
    config, first = trained
    train(config.model_copy(update={"seed": 1, "epochs": 1}), 0, layout)
    folders = first.fold(config.name, 0), layout.fold(config.name, 0)
    assert file_sha256(folders[0].checkpoint(1)) != file_sha256(folders[1].checkpoint(1))


def test_a_finished_fold_is_left(trained: tuple[Config, Layout], capsys: pytest.CaptureFixture[str]) -> None:
    config, layout = trained
    before = layout.fold(config.name, 0).checkpoint(3).stat().st_mtime_ns
    train(config, 0, layout)
    assert "trained already; delete it to train again" in capsys.readouterr().out
    assert layout.fold(config.name, 0).checkpoint(3).stat().st_mtime_ns == before


def test_a_conf_changed_half_way_is_refused(trained: tuple[Config, Layout]) -> None:
    config, layout = trained
    changed = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": 5e-4}), "workers": 1})
    with pytest.raises(UserError, match=r"was begun with another optimizer.lr \("):
        train(changed, 0, layout)


def test_other_folds_than_it_was_begun_on_are_refused(trained: tuple[Config, Layout], tmp_path: Path) -> None:
    config, layout = trained
    other = Layout(tmp_path)
    shutil.copytree(layout.root / "cache", other.root / "cache")
    shutil.copytree(layout.root / "model", other.root / "model")
    folds = pd.read_parquet(other.folds)
    write_table(folds.assign(fold=(folds["fold"] + 1) % 5), other.folds)
    with pytest.raises(UserError, match=r"was trained on other slices, .* delete .*fold0 to train anew"):
        train(config, 0, other)


def test_a_failed_start_does_not_bind(config: Config, layout: Layout) -> None:
    folder = layout.fold(config.name, 0)
    folder.path.mkdir(parents=True)
    folder.conf.write_text(dump_config(config.model_copy(update={"batch_size": 500})))
    train(config.model_copy(update={"epochs": 1}), 0, layout)
    assert folder.checkpoint(1).is_file()


def test_mistakes_are_named(config: Config, layout: Layout) -> None:
    with pytest.raises(UserError, match="there is no fold 9"):
        train(config, 9, layout)
    with pytest.raises(UserError, match="batch_size 500 is larger than fold 0's"):
        train(config.model_copy(update={"batch_size": 500}), 0, layout)


def test_a_store_that_lacks_slices_is_named(config: Config, preprocessed: Layout, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(preprocessed.root / "cache", tmp_path / "cache")
    index = pd.read_parquet(layout.store("train") / "index.parquet")
    write_table(index.iloc[5:], layout.store("train") / "index.parquet")
    with pytest.raises(UserError, match="5 slices are not in the image store") as lacking:
        train(config, 0, layout)
    assert lacking.value.step == "preprocess"


def test_batch_norm_is_reestimated_where_the_conf_says(trained: tuple[Config, Layout], layout: Layout) -> None:
    config = trained[0]
    network_conf = config.network.model_copy(update={"reestimate_batch_norm": True})
    train(config.model_copy(update={"network": network_conf, "epochs": 1}), 0, layout)
    plain, estimated = (build_network(config) for _ in range(2))
    load_checkpoint(trained[1].fold(config.name, 0).checkpoint(1), plain)
    load_checkpoint(layout.fold(config.name, 0).checkpoint(1), estimated)
    for (name, before), after in zip(plain.state_dict().items(), estimated.state_dict().values(), strict=True):
        if "running" in name:
            assert not torch.equal(before, after), name
        elif "num_batches" not in name:
            assert torch.equal(before, after), name


def test_the_average_of_the_weights_is_what_is_saved(config: Config, layout: Layout) -> None:
    folder = layout.fold(config.name, 0)
    weights = {}
    for decay in (None, 1e-9, 0.9):  # none, one that keeps next to nothing, one that lags behind
        train(config.model_copy(update={"ema_decay": decay, "epochs": 1}), 0, layout)
        weights[decay] = load_file(folder.checkpoint(1))["backbone.classifier.weight"]
        shutil.rmtree(folder.path)
    torch.testing.assert_close(weights[1e-9], weights[None])
    start = build_network_of(config)
    assert (weights[0.9] - start).abs().sum() < 0.9 * (weights[None] - start).abs().sum()


def build_network_of(config: Config) -> torch.Tensor:
    """The classifier's weights before training."""
    torch.manual_seed(config.seed)
    return build_network(config).state_dict()["backbone.classifier.weight"]


def test_label_weights_reach_the_loss(config: Config, layout: Layout) -> None:
    folder = layout.fold(config.name, 0)
    only = {label: float(label == "subdural") for label in LABELS}
    train(config.model_copy(update={"label_weights": only, "epochs": 1}), 0, layout)
    moved = load_file(folder.checkpoint(1))["backbone.classifier.weight"] - build_network_of(config)
    assert (moved.abs().sum(dim=1) > 0).tolist() == [label == "subdural" for label in LABELS]


def test_curves_have_each_step_once(trained: tuple[Config, Layout], layout: Layout) -> None:
    config, whole = trained
    metrics = pd.read_csv(whole.fold(config.name, 0).metrics)
    events = EventAccumulator(str(whole.fold(config.name, 0).curves))
    events.Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 13))
    assert [event.step for event in events.Scalars("epoch/valid")] == [4, 8, 12]
    valid = [event.value for event in events.Scalars("epoch/valid")]
    np.testing.assert_allclose(valid, metrics["valid"], rtol=1e-6)
    losses = np.array([event.value for event in events.Scalars("step/loss")]).reshape(3, 4)
    np.testing.assert_allclose(losses.mean(axis=1), metrics["train"], rtol=1e-5)  # batches are of one size


def test_compiled_training_is_the_same_training(config: Config, layout: Layout) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is no g++")
    rows = []
    for compiled in (False, True):
        train(config.model_copy(update={"compile": compiled, "epochs": 1}), 0, layout)
        folder = layout.fold(config.name, 0)
        rows.append(pd.read_csv(folder.metrics))
        assert not any("_orig_mod" in name for name in load_file(folder.checkpoint(1)))
        shutil.rmtree(folder.path)
    np.testing.assert_allclose(rows[1][["train", "valid"]], rows[0][["train", "valid"]], rtol=1e-3)
