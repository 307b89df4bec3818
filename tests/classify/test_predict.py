import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from src.classify import predictor
from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import EvalDataset, read_fold_split
from src.classify.inputs import find_inputs
from src.classify.network import build_network
from src.classify.predict import predict
from src.config import Config, WindowConf
from src.errors import Stopped, UserError
from src.files.checksum import file_sha256
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.partial_predictions import PartialPredictions
from src.files.predictions import read_predictions
from src.files.tables import write_table
from src.labels import LABELS
from src.train.checkpoint import load_checkpoint, read_metadata, save_checkpoint


@pytest.fixture
def layout(preprocessed: Layout, config: Config, tmp_path: Path) -> Layout:
    """A root with checkpoints of networks that were never trained."""
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    layout = Layout(tmp_path)
    _checkpoints(layout, config, 1)
    return layout


def test_all_epochs_together_equal_a_network_by_itself(layout: Layout, config: Config) -> None:
    predict(config, [1], ["test"], [2, 3], layout)
    ids = ImageStore(layout.store("test")).index["ID"].tolist()
    images = torch.stack([image for _, image in EvalDataset(find_inputs(layout, "test", 0), config)])  # type: ignore[attr-defined]
    for epoch in (2, 3):
        predictions = read_predictions(layout.fold(config.name, 1).predictions("test", epoch))
        assert predictions.ids.tolist() == ids
        network = build_network(config).eval()
        load_checkpoint(layout.fold(config.name, 1).checkpoint(epoch), network)
        with torch.inference_mode():
            expected = (network(images).sigmoid() + network(images.flip(-1)).sigmoid()) / 2
        np.testing.assert_allclose(predictions.probabilities, expected.numpy(), atol=1e-6)
        assert predictions.provenance is not None
        assert predictions.provenance.checkpoint == file_sha256(layout.fold(config.name, 1).checkpoint(epoch))
        assert (predictions.provenance.fold, predictions.provenance.epoch, predictions.provenance.split) == (
            1,
            epoch,
            "test",
        )


def test_files_of_the_same_checkpoint_are_left_others_made_anew(layout: Layout, config: Config) -> None:
    folder = layout.fold(config.name, 1)
    predict(config, [1], ["valid"], [2, 3], layout)
    before = {epoch: folder.predictions("valid", epoch).stat().st_mtime_ns for epoch in (2, 3)}
    metadata = read_metadata(folder.checkpoint(3), ClassifierMetadata)
    assert metadata == ClassifierMetadata.of(config, 1, 3, metadata.data_fingerprint)
    save_checkpoint(folder.checkpoint(3), build_network(config), metadata)
    predict(config, [1], ["valid"], [2, 3], layout)
    assert folder.predictions("valid", 2).stat().st_mtime_ns == before[2]
    assert folder.predictions("valid", 3).stat().st_mtime_ns != before[3]


def test_other_slices_are_predicted_anew(layout: Layout, config: Config, tmp_path: Path) -> None:
    predict(config, [1], ["test"], [2], layout)
    everything = ImageStore(layout.store("test")).index
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root / "cache", other.root / "cache")
    shutil.copytree(layout.root / "model", other.root / "model")
    write_table(everything.iloc[3:], other.store("test") / "index.parquet")
    predict(config, [1], ["test"], [2], other)
    assert (
        read_predictions(other.fold(config.name, 1).predictions("test", 2)).ids.tolist()
        == everything["ID"][3:].tolist()
    )


def test_a_network_that_saw_the_fold_is_refused(layout: Layout, config: Config) -> None:
    shutil.copytree(layout.fold(config.name, 1).path, layout.fold(config.name, 0).path)
    for split in ("test", "valid"):
        with pytest.raises(UserError, match=r"fold0/epoch2.safetensors was trained with fold 1, expected 0"):
            predict(config, [0], [split], [2], layout)


def test_other_folds_make_a_network_useless_out_of_fold(layout: Layout, config: Config, tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root / "cache", other.root / "cache")
    shutil.copytree(layout.root / "model", other.root / "model")
    folds = pd.read_parquet(other.folds)
    write_table(folds.assign(fold=(folds["fold"] + 1) % 5), other.folds)
    with pytest.raises(
        UserError, match=r"epoch2.safetensors was trained on other slices, .* would not be out of fold"
    ) as seen:
        predict(config, [1], ["valid"], [2, 3], other)
    assert seen.value.step == "train"
    predict(config, [1], ["test"], [2, 3], other)  # which folds made it does not matter to the test set


def test_mistakes_are_named(layout: Layout, config: Config) -> None:
    with pytest.raises(UserError, match=r"epoch7.safetensors is missing") as missing:
        predict(config, [1], ["test"], [2, 7], layout)
    assert missing.value.step == "train"
    with pytest.raises(UserError, match="was trained with image_size 32, expected 64"):
        predict(config.model_copy(update={"image_size": 64}), [1], ["test"], [2], layout)
    with pytest.raises(UserError, match=r"was trained with windows \[\[40.0, 80.0\], .*, expected \[\[50.0, 80.0\]\]"):
        predict(config.model_copy(update={"windows": (WindowConf(level=50, width=80),)}), [1], ["test"], [2], layout)
    with pytest.raises(UserError, match="was trained with neighbours 0, expected 1"):
        predict(config.model_copy(update={"neighbours": 1}), [1], ["test"], [2], layout)


@pytest.fixture
def of_two_folds(layout: Layout, config: Config) -> Layout:
    """The same with checkpoints of fold 3."""
    _checkpoints(layout, config, 3)
    return layout


def _checkpoints(layout: Layout, config: Config, *folds: int) -> None:
    for fold in folds:
        fingerprint = read_fold_split(layout, fold, config.neighbours)[0].fingerprint()
        for epoch in (2, 3):
            torch.manual_seed(10 * fold + epoch)
            metadata = ClassifierMetadata.of(config, fold, epoch, fingerprint)
            save_checkpoint(layout.fold(config.name, fold).checkpoint(epoch), build_network(config), metadata)


def _files(layout: Layout, config: Config) -> dict[str, bytes]:
    return {
        str(path.relative_to(layout.root)): path.read_bytes()
        for path in sorted((layout.root / "model" / config.name).rglob("*_epoch*.parquet"))
    }


@pytest.mark.parametrize("neighbours", [0, 1])
def test_every_slice_is_decoded_once_for_all_networks(
    of_two_folds: Layout, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, neighbours: int
) -> None:
    layout, config = of_two_folds, make_config(f"neighbours={neighbours}")
    _checkpoints(layout, config, 1, 3)
    reads: Counter[tuple[str, int]] = Counter()
    real = ImageStore.read

    def counted(store: ImageStore, row: int) -> np.ndarray:
        reads[store.folder.name, int(row)] += 1
        return real(store, row)

    monkeypatch.setattr(ImageStore, "read", counted)
    predict(config, [1, 3], ["test"], [2, 3], layout)
    assert reads == {("test", row): 1 for row in range(len(ImageStore(layout.store("test"))))}
    assert len(_files(layout, config)) == 4
    if not neighbours:  # folds are in the CSV's order, not in that of series
        reads.clear()
        predict(config, [1, 3], ["valid"], [2, 3], layout)
        folds = pd.read_parquet(layout.folds)
        assert sorted(reads.values()) == [1] * folds["fold"].isin([1, 3]).sum()


def test_groups_of_networks_predict_the_same(of_two_folds: Layout, config: Config) -> None:
    predict(config, [1, 3], ["valid", "test"], [2, 3], of_two_folds)
    together = _files(of_two_folds, config)
    assert len(together) == 8
    for name in together:
        (of_two_folds.root / name).unlink()
    predict(config, [1, 3], ["valid", "test"], [2, 3], of_two_folds, at_once=3)
    assert _files(of_two_folds, config) == together
    for name in together:
        (of_two_folds.root / name).unlink()
    for fold in (1, 3):
        for epoch in (2, 3):
            predict(config, [fold], ["valid", "test"], [epoch], of_two_folds)
    assert _files(of_two_folds, config) == together


def test_as_many_networks_as_memory_holds(
    of_two_folds: Layout, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = sum(each.nbytes for each in build_network(config).state_dict().values())
    free = SimpleNamespace(available=2 * 2 * weights + 1)  # half of which holds two
    monkeypatch.setattr(predictor.psutil, "virtual_memory", lambda: free)
    if torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free.available, 0))
    predict(config, [1, 3], ["test"], [2, 3], of_two_folds)
    said = capsys.readouterr().out
    assert "test, checkpoints 1 to 2 of 4: " in said
    assert "test, checkpoints 3 to 4 of 4: " in said
    free.available = 0
    predict(config, [1], ["valid"], [2, 3], of_two_folds)  # one always goes
    assert "valid, checkpoint 2 of 2: " in capsys.readouterr().out


def test_other_views_predict_anew(layout: Layout, config: Config, make_config: Callable[..., Config]) -> None:
    predict(config, [1], ["test"], [2], layout)
    both = _files(layout, config)
    predict(make_config("tta=[{name: Identity}]"), [1], ["test"], [2], layout)
    assert _files(layout, config) != both
    path = layout.fold(config.name, 1).predictions("test", 2)
    identity = read_predictions(path).probabilities
    predict(make_config("tta=[{name: HorizontalFlip}]"), [1], ["test"], [2], layout)
    flipped = read_predictions(path).probabilities
    predict(config, [1], ["test"], [2], layout)
    np.testing.assert_allclose(read_predictions(path).probabilities, (identity + flipped) / 2, atol=1e-6)
    assert _files(layout, config) == both


def _command(layout: Layout, config: Config, processes: int) -> list[str]:
    conf = layout.root / f"{config.name}.yaml"
    values = config.model_dump(mode="json")
    conf.write_text(yaml.safe_dump({key: value for key, value in values.items() if key != "name"}))
    run = ["src.classify.predict"] if processes == 1 else ["src.train.launch", "2", "src.classify.predict"]
    what = [str(conf), "--fold", "1", "3", "--split", "test", "--root", str(layout.root), "--save-seconds", "0"]
    return [sys.executable, "-m", *run, *what]


def _end_after_a_save(command: list[str], repository: Path, folder: Path, number: signal.Signals) -> str:
    """Start a command, send all its processes a signal once they have saved some predictions, return what it said.

    Of SIGKILL nothing of the run is left, as where the machine fails.
    """

    def saved() -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [path.stat().st_mtime_ns for path in folder.glob("test_folds1-3_epochs2-3_*.npz")]
        return before

    before: list[int] = []
    before = saved()
    process = subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while saved() == before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), errors
    return errors


@pytest.mark.parametrize(("processes", "ends"), [(1, (signal.SIGKILL, signal.SIGTERM)), (2, (signal.SIGTERM,))])
def test_an_interrupted_prediction_goes_on_to_the_same_bytes(
    layout: Layout, make_config: Callable[..., Config], repository: Path, processes: int, ends: tuple[signal.Signals]
) -> None:
    config = make_config("image_size=160", "batch_size=2", "workers=1")  # so that there is time to interrupt it
    _checkpoints(layout, config, 1, 3)
    predict(config, [1, 3], ["test"], [2, 3], layout)
    whole = _files(layout, config)
    for name in whole:
        (layout.root / name).unlink()
    folder = layout.fold(config.name, 1).partial_predictions
    command = _command(layout, config, processes)
    for number in ends:
        errors = _end_after_a_save(command, repository, folder, number)
        said = "stopped: the same command goes on from what is finished"
        assert errors.count(said) == (0 if number == signal.SIGKILL else processes)
        assert all("checkpoints 1 to 4 of 4" in line for line in errors.replace(said, "").split("\n") if line)
        assert not _files(layout, config)
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    slices = len(ImageStore(layout.store("test")))
    left = re.search(r"test, checkpoints 1 to 4 of 4: (\d+) slices in", result.stdout)
    assert left, result.stdout + result.stderr
    assert 0 < int(left[1]) < slices - 2 * len(ends) + 1
    assert not list(layout.root.rglob("partial_predictions"))
    again = _files(layout, config)
    if processes == 1:
        assert again == whole
    for name in whole:
        one, two = (pd.read_parquet(io.BytesIO(files[name])) for files in (whole, again))
        assert two["ID"].tolist() == one["ID"].tolist()
        np.testing.assert_allclose(two[list(LABELS)], one[list(LABELS)], atol=1e-6)


def test_an_interrupted_group_goes_on_when_others_are_finished(
    of_two_folds: Layout, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config.model_copy(update={"batch_size": 4})
    predict(config, [1, 3], ["test"], [2, 3], of_two_folds)
    whole = _files(of_two_folds, config)
    for name in whole:
        (of_two_folds.root / name).unlink()
    real, adds = PartialPredictions.add, []

    def add(partial: PartialPredictions, outputs: np.ndarray) -> None:
        real(partial, outputs)
        adds.append(None)
        if len(adds) == 4 + 2:  # four batches of the first group, two of the second
            raise Stopped("pulled the plug")

    monkeypatch.setattr(PartialPredictions, "add", add)
    with pytest.raises(Stopped):
        predict(config, [1, 3], ["test"], [2, 3], of_two_folds, at_once=2)
    assert len(_files(of_two_folds, config)) == 2
    capsys.readouterr()
    predict(config, [1, 3], ["test"], [2, 3], of_two_folds, at_once=2)
    slices = len(ImageStore(of_two_folds.store("test")))
    assert f"checkpoints 1 to 2 of 2: {slices - 8} slices in" in capsys.readouterr().out
    assert _files(of_two_folds, config) == whole
    assert not list(of_two_folds.root.rglob("partial_predictions"))


def test_results_that_no_run_takes_over_are_deleted(layout: Layout, config: Config) -> None:
    folder = layout.fold(config.name, 1).partial_predictions
    predict(config, [1], ["valid"], [2, 3], layout)
    made = [read_predictions(layout.fold(config.name, 1).predictions("valid", epoch)).provenance for epoch in (2, 3)]
    records = [each.record() for each in made if each is not None]
    left = {
        "finished": json.dumps(records),
        "replaced": json.dumps([{**records[0], "split": "test", "checkpoint": "of another training"}]),
        "due": json.dumps([{**records[0], "split": "test"}]),
    }
    for name, key in left.items():
        PartialPredictions(folder / f"{name}.npz", key, len(json.loads(key)), 3).save()
    (folder / "damaged.npz").write_text("no zip")
    (folder / ".due.0a.partial.npz").write_text("half of one")
    predict(config, [1], ["valid"], [2, 3], layout)
    assert [path.name for path in folder.iterdir()] == ["due.npz"]
