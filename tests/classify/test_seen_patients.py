"""What a network has seen, itself or by the weights that it began with, is no patient that it is judged by."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from src.classify.checkpoint import ClassifierMetadata, pack_patients, unpack_patients
from src.classify.dataset import read_fold_split
from src.classify.jobs import plan_predictions
from src.classify.train import train
from src.config import Config
from src.errors import UserError
from src.files.checksum import UNSEALED, write_sealed
from src.files.folds import patient_hashes, read_fold_table
from src.files.layout import Layout
from src.files.tables import write_table
from src.train.checkpoint import read_metadata


@pytest.fixture
def layout(preprocessed: Layout, tmp_path: Path) -> Layout:
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    return Layout(tmp_path)


def _checkpoint(layout: Layout, config: Config, fold: int, epoch: int = 1) -> Path:
    return layout.fold(config.name, fold).checkpoint(epoch)


def test_a_checkpoint_names_the_patients_of_its_training(make_config: Callable[..., Config], layout: Layout) -> None:
    config = make_config("epochs=1")
    train(config, 1, layout)
    folds = read_fold_table(layout)
    seen = unpack_patients(read_metadata(_checkpoint(layout, config, 1), ClassifierMetadata).patients)
    assert set(seen) == set(patient_hashes(folds.loc[folds["fold"] != 1, "PatientID"]))
    assert unpack_patients(pack_patients(np.array([3, 1, 3], dtype=np.uint64))).tolist() == [1, 3]


def test_weights_that_have_seen_the_held_out_patients_are_refused(
    make_config: Callable[..., Config], layout: Layout
) -> None:
    config = make_config("epochs=1")
    train(config, 1, layout)
    on_top = make_config("epochs=1", f"network.pretrained={_checkpoint(layout, config, 1)}")
    on_top = on_top.model_copy(update={"name": "on_top"})
    with pytest.raises(
        UserError, match=r"network.pretrained: .* was trained on [1-9]\d* of the .* that this fold holds"
    ):
        train(on_top, 0, layout)
    train(on_top, 1, layout)  # which holds out the same patients
    # nor through a further training: fold 0's patients were seen two trainings ago
    third = make_config("epochs=1", f"network.pretrained={_checkpoint(layout, on_top, 1)}")
    with pytest.raises(UserError, match="was trained on"):
        train(third.model_copy(update={"name": "third"}), 0, layout)


def test_a_checkpoint_that_has_seen_them_does_not_predict_out_of_fold(
    make_config: Callable[..., Config], layout: Layout
) -> None:
    config = make_config("epochs=1")
    train(config, 1, layout)
    path = _checkpoint(layout, config, 1)
    held_out = read_fold_split(layout, 1)[1].patients
    metadata = read_metadata(path, ClassifierMetadata)
    _rewrite(path, pack_patients(np.concatenate([unpack_patients(metadata.patients), held_out[:1]])))
    with pytest.raises(UserError, match="was trained on 1 of the"):
        plan_predictions(config, [1], ["valid"], [1], layout)
    plan_predictions(config, [1], ["test"], [1], layout)


def _rewrite(path: Path, patients: str) -> None:
    tensors = load_file(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    about = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["about"])
    about |= {"patients": patients, "checksum": UNSEALED}
    save_file(tensors, path, metadata={"about": json.dumps(about, sort_keys=True)})
    write_sealed(path, path.read_bytes())


def test_weights_from_elsewhere_say_nothing(make_config: Callable[..., Config], layout: Layout, tmp_path: Path) -> None:
    config = make_config("epochs=1")
    train(config, 1, layout)
    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file(load_file(_checkpoint(layout, config, 1)), elsewhere)
    other = make_config("epochs=1", f"network.pretrained={elsewhere}").model_copy(update={"name": "other"})
    train(other, 0, layout)
    folds = read_fold_table(layout)
    seen = unpack_patients(read_metadata(_checkpoint(layout, other, 0), ClassifierMetadata).patients)
    assert set(seen) == set(patient_hashes(pd.Series(folds.loc[folds["fold"] != 0, "PatientID"])))


def test_stored_slices_in_no_fold_are_told(preprocessed: Layout, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for name in ("train", "train.parquet"):
        (tmp_path / "cache" / name).symlink_to(preprocessed.root / "cache" / name)
    folds = read_fold_table(preprocessed)
    write_table(folds[folds["PatientID"] != folds["PatientID"][0]], tmp_path / "cache/folds.parquet")
    with pytest.raises(UserError, match=r"slices of .* are in no fold: .*; delete .*folds.parquet") as refused:
        read_fold_split(Layout(tmp_path), 1)
    assert refused.value.step == "preprocess"
