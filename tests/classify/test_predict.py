import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.classify.checkpoint import About, file_sha256, load_checkpoint, read_about, save_checkpoint
from src.classify.dataset import PlainSlices
from src.classify.network import build_network
from src.classify.predict import predict
from src.classify.split import read_split
from src.classify.stacks import find_stacks
from src.config import Config, WindowConf
from src.errors import UserError
from src.files.images import ImageStore
from src.files.layout import Layout
from src.files.predictions import read_predictions


@pytest.fixture
def layout(preprocessed: Layout, config: Config, tmp_path: Path) -> Layout:
    """A root with checkpoints of networks that were never trained."""
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    layout = Layout(tmp_path)
    trained_on = read_split(layout, 1)[0].fingerprint()
    for epoch in (2, 3):
        torch.manual_seed(epoch)
        about = About.of(config, 1, epoch, trained_on)
        network = build_network(config)
        save_checkpoint(layout.fold(config.name, 1).checkpoint(epoch), network, about)
    return layout


def test_one_pass_for_all_epochs_equals_a_network_by_itself(layout: Layout, config: Config) -> None:
    predict(config, 1, "test", [2, 3], layout)
    ids = ImageStore(layout.store("test")).index["ID"].tolist()
    images = torch.stack([image for _, image in PlainSlices(find_stacks(layout, "test", 0), config.image_size)])  # type: ignore[attr-defined]
    for epoch in (2, 3):
        predictions = read_predictions(layout.fold(config.name, 1).predictions("test", epoch))
        assert predictions.ids.tolist() == ids
        network = build_network(config).eval()
        load_checkpoint(layout.fold(config.name, 1).checkpoint(epoch), network)
        with torch.inference_mode():
            np.testing.assert_allclose(predictions.probabilities, network(images).sigmoid().numpy(), atol=1e-6)
        assert predictions.origin is not None
        assert predictions.origin.checkpoint == file_sha256(layout.fold(config.name, 1).checkpoint(epoch))
        assert (predictions.origin.fold, predictions.origin.epoch, predictions.origin.split) == (1, epoch, "test")


def test_files_of_the_same_checkpoint_are_left_others_made_anew(layout: Layout, config: Config) -> None:
    folder = layout.fold(config.name, 1)
    predict(config, 1, "valid", [2, 3], layout)
    before = {epoch: folder.predictions("valid", epoch).stat().st_mtime_ns for epoch in (2, 3)}
    about = About.of(config, 1, 3, read_about(folder.checkpoint(3)).trained_on)
    save_checkpoint(folder.checkpoint(3), build_network(config), about)
    predict(config, 1, "valid", [2, 3], layout)
    assert folder.predictions("valid", 2).stat().st_mtime_ns == before[2]
    assert folder.predictions("valid", 3).stat().st_mtime_ns != before[3]


def test_other_slices_are_predicted_anew(layout: Layout, config: Config, tmp_path: Path) -> None:
    predict(config, 1, "test", [2], layout)
    everything = ImageStore(layout.store("test")).index
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root / "cache", other.root / "cache")
    shutil.copytree(layout.root / "model", other.root / "model")
    everything.iloc[3:].to_parquet(other.store("test") / "index.parquet")
    predict(config, 1, "test", [2], other)
    assert (
        read_predictions(other.fold(config.name, 1).predictions("test", 2)).ids.tolist()
        == everything["ID"][3:].tolist()
    )


def test_a_network_that_saw_the_fold_is_refused(layout: Layout, config: Config) -> None:
    shutil.copytree(layout.fold(config.name, 1).path, layout.fold(config.name, 0).path)
    with pytest.raises(UserError, match=r"fold0/epoch2.safetensors was trained with fold 1, expected 0"):
        predict(config, 0, "test", [2], layout)
    with pytest.raises(UserError, match="its predictions would not be out of fold"):
        predict(config, 0, "valid", [2], layout)


def test_other_folds_make_a_network_useless_out_of_fold(layout: Layout, config: Config, tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    shutil.copytree(layout.root / "cache", other.root / "cache")
    shutil.copytree(layout.root / "model", other.root / "model")
    folds = pd.read_parquet(other.folds)
    folds.assign(fold=(folds["fold"] + 1) % 5).to_parquet(other.folds)
    with pytest.raises(UserError, match=r"epoch2.safetensors was trained on other slices, .* would not be out of fold"):
        predict(config, 1, "valid", [2, 3], other)
    predict(config, 1, "test", [2, 3], other)  # which folds made it does not matter to the test set


def test_mistakes_are_named(layout: Layout, config: Config) -> None:
    with pytest.raises(UserError, match=r"epoch7.safetensors is missing; bin/train.sh makes it"):
        predict(config, 1, "test", [2, 7], layout)
    with pytest.raises(UserError, match="was trained with image_size 32, expected 64"):
        predict(config.model_copy(update={"image_size": 64}), 1, "test", [2], layout)
    with pytest.raises(UserError, match=r"was trained with windows \[\[40.0, 80.0\], .*, expected \[\[50.0, 80.0\]\]"):
        predict(config.model_copy(update={"windows": (WindowConf(level=50, width=80),)}), 1, "test", [2], layout)
    with pytest.raises(UserError, match="was trained with neighbours 0, expected 1"):
        predict(config.model_copy(update={"neighbours": 1}), 1, "test", [2], layout)
