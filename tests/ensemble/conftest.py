import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from src.ensemble.make_submission import main
from src.errors import UserError
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.predictions import Predictions, read_predictions, write_predictions
from src.files.provenance import Provenance
from src.labels import LABELS

Make = Callable[..., Predictions]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a prediction file and read it back."""

    def _make(ids: list[str], values: float | np.ndarray, **recorded: object) -> Predictions:
        provenance = Provenance(
            **{
                "conf": "net",
                "fold": 0,
                "epoch": 2,
                "checkpoint": "c",
                "split": "test",
                "slices": "s",
                "tta": "Identity",
                **recorded,
            }  # type: ignore[arg-type]
        )
        of = provenance
        path = tmp_path / f"{of.conf}_fold{of.fold}_{of.split}_epoch{of.epoch}.parquet"
        probabilities = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(ids), 6))
        write_predictions(path, pd.Series(ids), probabilities, provenance)
        return read_predictions(path)

    return _make


CONFS, EPOCHS, FOLDS = ("x", "y"), (2, 3), range(5)


def provenance_of(conf: str, fold: int, epoch: int, split: str, **more: object) -> Provenance:
    usual = {"checkpoint": "c", "slices": "s", "tta": "Identity"}
    return Provenance(conf=conf, fold=fold, epoch=epoch, split=split, **(usual | more))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def root(repository: Path, preprocessed: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with predictions of two classifiers that see the truth through noise."""
    root = tmp_path_factory.mktemp("predicted")
    for folder in ("cache", "input"):
        (root / folder).symlink_to(preprocessed.root / folder)
    (root / "conf").mkdir()
    for conf in CONFS:
        (root / "conf" / f"{conf}.yaml").write_text(f"base: {repository}/conf/efficientnet-b2.yaml\n")
    (root / "conf/gru.yaml").write_text(f"base: {repository}/conf/sequence/gru.yaml\nepochs: 12\n")
    layout, rng = Layout(root), np.random.default_rng(0)
    folds = pd.read_parquet(layout.folds).set_index("ID")["fold"]
    targets = pd.read_parquet(layout.table("train")).set_index("ID")[list(LABELS)]
    tested = ImageStore(layout.store("test")).index["ID"]
    for conf, noise in zip(CONFS, (1.0, 2.0), strict=True):
        for epoch in EPOCHS:
            for fold in FOLDS:
                ids = folds.index[folds == fold]
                seen = (targets.loc[ids].to_numpy() * 4.0 - 2) * 2 + noise * rng.normal(size=(len(ids), 6))
                for split, names, values in (
                    ("valid", ids, expit(seen)),
                    ("test", tested, rng.random((len(tested), 6))),
                ):
                    path = layout.fold(conf, fold).predictions(split, epoch)
                    write_predictions(path, names, values, provenance_of(conf, fold, epoch, split))
    return root


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """The same, to write to."""
    shutil.copytree(root, tmp_path / "own", symlinks=True)
    return tmp_path / "own"


def prediction_files(root: Path, split: str) -> list[str]:
    return sorted(map(str, root.glob(f"model/*/fold*/{split}_epoch*.parquet")))


def making(root: Path, *more: str, out_of_fold: bool = True) -> list[str]:
    """The command's arguments to make a submission of all predictions."""
    sample = str(root / "input/stage_2_sample_submission.csv")
    arguments = ["--predictions", *prediction_files(root, "test"), "--sample", sample]
    arguments += ["--output", str(root / "submission/submission.csv"), "--root", str(root), *more]
    return [*arguments, "--out-of-fold", *prediction_files(root, "valid")] if out_of_fold else arguments


@pytest.fixture
def run(repository: Path, python: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "src.ensemble.make_submission", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True)

    return _run


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command in this process, which spares the start of another; it must end with a UserError of these words.

    step: that the error names, None for none.
    """

    def _refused(arguments: list[str], *expected: str, step: str | None = None) -> None:
        monkeypatch.setattr(sys, "argv", ["make_submission", *arguments])
        with pytest.raises(UserError) as error:
            main()
        for words in expected:
            assert words in str(error.value)
        assert error.value.step == step

    return _refused


Refused = Callable[..., None]
