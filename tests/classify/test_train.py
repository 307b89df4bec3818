import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.classify import train as train_module
from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import read_fold_split
from src.classify.network import build_network
from src.classify.predict import predict
from src.classify.train import train
from src.classify.tta import IDENTITY
from src.config import Config, dump_config, load_config
from src.errors import Stopped, UserError
from src.evaluate.score import weighted_log_loss
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.labels import LABELS
from src.train import epoch as epoch_module
from src.train import trainer
from src.train.checkpoint import load_checkpoint, read_metadata
from src.train.state import Position, TrainingState
from src.train.tensorboard import TensorBoard
from src.train.trainer import steps_per_epoch


@pytest.fixture
def layout(preprocessed: Layout, tmp_path: Path) -> Layout:
    """A root of one's own, with the shared cache."""
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    return Layout(tmp_path)


@pytest.fixture(scope="module")
def trained(preprocessed: Layout, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Layout]:
    root = tmp_path_factory.mktemp("trained")
    (root / "cache").symlink_to(preprocessed.root / "cache")
    quick = ["network.architecture=timm/resnet10t", "network.pretrained=none", "image_size=32", "batch_size=8"]
    # dropout draws from torch's own generator; a milestone after the stop shows that the scheduler goes on too
    quick += ["network.dropout=0.3", "scheduler.milestones=[2]", "workers=0", "optimizer.lr=1e-3", "save_steps=2"]
    quick += ["ema_decay=0.5", "neighbours=1"]
    config = load_config(repository / "conf/se_resnext50_32x4d.yaml", quick)
    train(config, 0, Layout(root))
    return config, Layout(root)


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
    assert (metadata.conf, metadata.architecture) == (config.name, "timm/resnet10t")
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


STOPS = [
    ("train_epoch", "epoch 2", 1),  # before a step is made
    ("weighted_bce", "", 7),  # in the middle of an epoch, after a save and some steps that are lost
    ("predict_slices", "epoch 2", 1),  # in validation
]


@pytest.mark.parametrize(("where", "when", "which"), STOPS, ids=["start", "middle", "validation"])
def test_an_interrupted_fold_goes_on_to_the_same_weights(
    trained: tuple[Config, Layout], layout: Layout, monkeypatch: pytest.MonkeyPatch, where: str, when: str, which: int
) -> None:
    config, whole = trained
    module = {"train_epoch": trainer, "weighted_bce": epoch_module, "predict_slices": train_module}[where]
    real, calls = getattr(module, where), []

    def stop(*args: object, **how: object) -> object:
        calls.append(None)
        if when in " ".join(map(str, [*args, *how.values()])) and len(calls) >= which:
            raise Stopped("pulled the plug")
        return real(*args, **how)

    monkeypatch.setattr(module, where, stop)
    with pytest.raises(Stopped):
        train(config, 0, layout)
    folder = layout.fold(config.name, 0)
    assert folder.state.is_file()
    assert not folder.checkpoint(2).is_file()
    monkeypatch.setattr(module, where, real)
    before = {path: path.stat().st_mtime_ns for path in folder.path.glob("*.safetensors")}
    train(config, 0, layout)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    for epoch in (1, 2, 3):
        assert file_sha256(folder.checkpoint(epoch)) == file_sha256(whole.fold(config.name, 0).checkpoint(epoch))
    assert not folder.state.is_file()
    found, expected = (pd.read_csv(each.fold(config.name, 0).metrics) for each in (layout, whole))
    timed = ["images_per_second", "waiting_fraction"]
    pd.testing.assert_frame_equal(found.drop(columns=timed), expected.drop(columns=timed))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_to_the_same_weights(
    trained: tuple[Config, Layout], layout: Layout, repository: Path, number: signal.Signals
) -> None:
    config, whole = trained
    conf = layout.root / f"{config.name}.yaml"
    conf.write_text(
        yaml.safe_dump({key: value for key, value in config.model_dump(mode="json").items() if key != "name"})
    )
    command = [sys.executable, "-m", "src.classify.train", str(conf), "--fold", "0", "--root", str(layout.root)]
    folder = layout.fold(config.name, 0)
    stops = 0
    for stop_at in (1, 3, 20):  # saves that have been seen
        process = subprocess.Popen(
            command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        saves: set[int] = set()
        while process.poll() is None and len(saves) < stop_at:
            with contextlib.suppress(FileNotFoundError):
                saves.add(folder.state.stat().st_mtime_ns)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if process.returncode:
            assert process.returncode == (75 if number == signal.SIGTERM else -9), errors
            stops += 1
    assert stops >= 2
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    for epoch in (1, 2, 3):
        assert file_sha256(folder.checkpoint(epoch)) == file_sha256(whole.fold(config.name, 0).checkpoint(epoch))


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
    folds.assign(fold=(folds["fold"] + 1) % 5).to_parquet(other.folds)
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
    index.iloc[5:].to_parquet(layout.store("train") / "index.parquet")
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
        weights[decay] = load_file(folder.checkpoint(1))["backbone.fc.weight"]
        shutil.rmtree(folder.path)
    torch.testing.assert_close(weights[1e-9], weights[None])
    start = build_network_of(config)
    assert (weights[0.9] - start).abs().sum() < 0.9 * (weights[None] - start).abs().sum()


def build_network_of(config: Config) -> torch.Tensor:
    """The classifier's weights before training."""
    torch.manual_seed(config.seed)
    return build_network(config).state_dict()["backbone.fc.weight"]


def test_label_weights_reach_the_loss(config: Config, layout: Layout) -> None:
    folder = layout.fold(config.name, 0)
    only = {label: float(label == "subdural") for label in LABELS}
    train(config.model_copy(update={"label_weights": only, "epochs": 1}), 0, layout)
    moved = load_file(folder.checkpoint(1))["backbone.fc.weight"] - build_network_of(config)
    assert (moved.abs().sum(dim=1) > 0).tolist() == [label == "subdural" for label in LABELS]


def test_an_optimiser_with_further_arguments_goes_on_exactly(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd = config.optimizer.model_copy(update={"name": "SGD", "arguments": {"momentum": 0.9}, "clip_norm": 1.0})
    config = config.model_copy(update={"optimizer": sgd, "accumulate": 2, "epochs": 2, "save_steps": 1})
    folder, hashes = layout.fold(config.name, 0), []
    train(config, 0, layout)
    hashes.append(file_sha256(folder.checkpoint(2)))
    shutil.rmtree(folder.path)
    real, calls = epoch_module.weighted_bce, []

    def stop(*args: object) -> object:
        calls.append(None)
        if len(calls) == 4:  # in the middle of the second step
            raise Stopped("pulled the plug")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(epoch_module, "weighted_bce", stop)
    with pytest.raises(Stopped):
        train(config, 0, layout)
    train(config, 0, layout)
    assert file_sha256(folder.checkpoint(2)) == hashes[0]


@pytest.mark.parametrize("where", ["reestimate_batch_norm", "predict_slices", "save_checkpoint"])
def test_after_an_epochs_last_step_a_fold_goes_on_exactly(
    make_config: Callable[..., Config], layout: Layout, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # stochastic depth is random; batch norm is estimated anew between the last step and validation
    config = make_config("network.drop_path=0.3", "network.reestimate_batch_norm=true", "epochs=2", "batch_size=11")
    folder = layout.fold(config.name, 0)
    train(config, 0, layout)
    whole = [file_sha256(folder.checkpoint(epoch)) for epoch in (1, 2)]
    shutil.rmtree(folder.path)
    module = trainer if where == "save_checkpoint" else train_module
    real = getattr(module, where)

    def stop(*args: object, **how: object) -> object:
        raise Stopped("pulled the plug")

    monkeypatch.setattr(module, where, stop)
    with pytest.raises(Stopped):
        train(config, 0, layout)
    monkeypatch.setattr(module, where, real)
    train(config, 0, layout)
    assert [file_sha256(folder.checkpoint(epoch)) for epoch in (1, 2)] == whole
    events = EventAccumulator(str(folder.curves))
    events.Reload()
    steps = len(events.Scalars("step/loss")) // 2
    assert [event.step for event in events.Scalars("epoch/valid")] == [steps, 2 * steps]


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


class _Lazy(TensorBoard):
    """Curves that write nothing before they must. The points that were flushed: of each name, its steps."""

    flushed: dict[str, list[int]]

    def __init__(self, folder: Path | None, step: int) -> None:
        super().__init__(None, step)
        _Lazy.flushed, self.waiting = {"step/loss": [], "epoch/valid": []}, []  # type: ignore[var-annotated]

    def add(self, values: dict[str, Any], step: int) -> None:
        self.waiting += [(name, step) for name in values if name in _Lazy.flushed]

    def flush(self) -> None:
        while self.waiting:
            name, step = self.waiting.pop(0)
            _Lazy.flushed[name].append(step)


def test_a_run_that_is_killed_leaves_no_hole_in_the_curves(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the next run makes no point again of what was saved
    config = config.model_copy(update={"save_steps": 2, "epochs": 2})
    steps = steps_per_epoch(config, 0, len(read_fold_split(layout, 0)[0]))
    save, train_epoch = TrainingState.save, trainer.train_epoch

    def watched_save(state: TrainingState, path: Path) -> None:
        done = (state.position.epoch - 1) * steps + state.position.step
        assert _Lazy.flushed["step/loss"] == list(range(1, done + 1))
        save(state, path)

    def watched_epoch(*args: Any, **how: Any) -> None:
        position = next(each for each in args if isinstance(each, Position))
        assert _Lazy.flushed["epoch/valid"] == [steps * done for done in range(1, position.epoch)]
        train_epoch(*args, **how)

    monkeypatch.setattr(trainer, "TensorBoard", _Lazy)
    monkeypatch.setattr(TrainingState, "save", watched_save)
    monkeypatch.setattr(trainer, "train_epoch", watched_epoch)
    train(config, 0, layout)
    assert _Lazy.flushed == {"step/loss": list(range(1, 2 * steps + 1)), "epoch/valid": [steps, 2 * steps]}


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


def test_a_second_run_waits_for_the_first_and_finds_it_done(
    config: Config, layout: Layout, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"epochs": 1})
    conf = layout.root / f"{config.name}.yaml"
    conf.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    command = [sys.executable, "-m", "src.classify.train", str(conf), "--fold", "0", "--root", str(layout.root)]
    real, second = train_module.predict_slices, []

    def start_another(*args: object, **how: object) -> object:
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        second.append(process)
        assert process.stderr is not None
        while "is being filled by another run" not in process.stderr.readline():
            assert process.poll() is None
        return real(*args, **how)

    monkeypatch.setattr(train_module, "predict_slices", start_another)
    train(config, 0, layout)
    output, _ = second[0].communicate(timeout=60)
    assert "trained already" in output
    assert second[0].returncode == 0
