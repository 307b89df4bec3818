"""A training that is stopped, in whatever way, goes on to the same weights."""

import contextlib
import errno
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from src.classify import train as train_module
from src.classify.dataset import read_fold_split
from src.classify.train import train
from src.config import Config
from src.errors import Stopped, _end_of
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.train import epoch as epoch_module
from src.train import trainer
from src.train.state import Position, TrainingState, read_state
from src.train.tensorboard import TensorBoard
from src.train.trainer import steps_per_epoch

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


def test_a_disk_that_fills_with_curves_keeps_the_last_save(
    trained: tuple[Config, Layout], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = trained
    real, calls = RecordWriter.write, []

    def write(writer: RecordWriter, data: bytes) -> None:
        calls.append(None)
        if len(calls) > 2 + 4 + 1 + 3:  # two records begin the file; the last step of the second epoch
            raise OSError(errno.ENOSPC, "No space left on device")
        real(writer, data)

    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"No space left.*events.out") as full:  # noqa: PT012
        patched.setattr(RecordWriter, "write", write)
        train(config, 0, layout)
    assert _end_of(full.value) == (2, f"error: {full.value.filename}: No space left on device")
    folder = layout.fold(config.name, 0)
    position = read_state(folder.state)["position"]
    assert (position["epoch"], position["step"]) == (2, 2)
    train(config, 0, layout)
    for epoch in (1, 2, 3):
        assert file_sha256(folder.checkpoint(epoch)) == file_sha256(whole.fold(config.name, 0).checkpoint(epoch))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_to_the_same_weights(
    trained: tuple[Config, Layout], layout: Layout, repository: Path, python: str, number: signal.Signals
) -> None:
    config, whole = trained
    conf = layout.root / f"{config.name}.yaml"
    conf.write_text(
        yaml.safe_dump({key: value for key, value in config.model_dump(mode="json").items() if key != "name"})
    )
    command = [python, "-m", "src.classify.train", str(conf), "--fold", "0", "--root", str(layout.root)]
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
            time.sleep(0.0005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if process.returncode:
            assert process.returncode == (75 if number == signal.SIGTERM else -9), errors
            stops += 1
    assert stops >= 2
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    for epoch in (1, 2, 3):
        assert file_sha256(folder.checkpoint(epoch)) == file_sha256(whole.fold(config.name, 0).checkpoint(epoch))


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


def test_a_second_run_waits_for_the_first_and_finds_it_done(
    config: Config, layout: Layout, repository: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"epochs": 1})
    conf = layout.root / f"{config.name}.yaml"
    conf.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    command = [python, "-m", "src.classify.train", str(conf), "--fold", "0", "--root", str(layout.root)]
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
