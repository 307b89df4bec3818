"""A root with all that a run leaves behind, but for checkpoints: two classifiers that see the truth through noise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from src.ensemble.make import make, write
from src.ensemble.manifest import Inputs
from src.ensemble.recipe import Recipe
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.labels import LABELS
from src.preprocess.audit import main as audit
from src.report.make import Report, make_report
from tests.pages.conftest import browser

__all__ = ["browser"]  # a fixture, which pages of a report are opened in too

CONFS, EPOCH, FOLDS = ("x", "y"), 3, range(5)


@pytest.fixture(scope="session")
def complete(preprocessed: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Not to be written to."""
    layout = Layout(tmp_path_factory.mktemp("reported"))
    shutil.copytree(preprocessed.root / "cache", layout.root / "cache")
    (layout.root / "input").symlink_to(preprocessed.root / "input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["audit", "--root", str(layout.root)])
        audit()
    folds = pd.read_parquet(layout.folds).set_index("ID")["fold"]
    targets = pd.read_parquet(layout.table("train")).set_index("ID")[list(LABELS)]
    tested = ImageStore(layout.store("test")).index["ID"]
    rng = np.random.default_rng(0)
    for conf, noise in zip(CONFS, (3.0, 4.0), strict=True):
        for fold in FOLDS:
            ids, folder = folds.index[folds == fold], layout.fold(conf, fold)
            seen = (targets.loc[ids].to_numpy() * 4.0 - 2) + noise * rng.normal(size=(len(ids), 6))
            for split, names, values in (("valid", ids, expit(seen)), ("test", tested, rng.random((len(tested), 6)))):
                of = Provenance(
                    conf=conf, fold=fold, epoch=EPOCH, checkpoint="c", split=split, slices="s", tta="Identity"
                )
                write_predictions(folder.predictions(split, EPOCH), pd.Series(names), values, of)
            epochs = {"epoch": [1, 2, 3], "lr": [1e-3, 5e-4, 1e-4], "train": [0.5, 0.4, 0.3], "valid": [0.6, 0.5, 0.5]}
            pd.DataFrame({**epochs, "images_per_second": 20.0, "waiting_fraction": 0.1}).to_csv(
                folder.metrics, index=False
            )
            folder.versions.write_text("- since: epoch 1, step 0\n  python: 3.11.7\n  packages: {torch: 2.15.0}\n")
    files = {
        split: [layout.fold(conf, fold).predictions(split, EPOCH) for conf in CONFS for fold in FOLDS]
        for split in ("valid", "test")
    }
    sample = layout.root / "input/stage_2_sample_submission.csv"
    inputs = Inputs(files["test"], files["valid"], sample, layout.root, Recipe(consistent=True))
    write(make(inputs), inputs, layout.submission)
    return layout


@pytest.fixture(scope="session")
def report(complete: Layout) -> Report:
    return make_report(complete)


@pytest.fixture
def own(complete: Layout, tmp_path: Path) -> Callable[..., Layout]:
    """A copy of some of its parts, to write to."""

    def _own(*parts: str) -> Layout:
        root = tmp_path / "own"
        for part in parts:
            source = complete.root / part
            if source.is_dir():
                shutil.copytree(source, root / part)
            else:
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / part)
        return Layout(root)

    return _own
