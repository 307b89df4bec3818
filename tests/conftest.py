"""What many tests share: a tiny generated competition, preprocessed once, and one real head CT where it is."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.config import Config, load_config
from src.errors import show_log
from src.files.layout import Layout
from src.files.tables import write_table
from src.labels import row_ids
from src.preprocess.create_dataset import create_dataset
from src.preprocess.dicom_to_dataframe import dicom_to_dataframe
from src.preprocess.make_folds import make_folds
from src.synthetic.make_competition import make_competition
from tests.warm_python import read_at_import, warm_python

REPOSITORY = Path(__file__).parents[1]
HEAD_CT = REPOSITORY.parent / "shared" / "data" / "head_ct_ge"

# where tests run side by side, each has a core; the process that hands them out has set its own number before
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")


# a shell that starts commands in the background has them ignore Ctrl-C, and so would all that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="more random kills: 30 in place of 2")


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """dask and joblib leave behind what they tell their workers by the environment, such as to use one thread each.

    What a later test starts would compute other bits than this process does, or start with a cold Python.
    """
    before = read_at_import(dict(os.environ))
    yield
    for name in read_at_import(dict(os.environ)).keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    """A command that runs in this process has handlers of its own, and ignores signals when it has ended; so would all
    that later tests start. It may have run in a fixture of a whole module, before any test.
    """
    _reset_signals()
    yield
    _reset_signals()


def _reset_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _shown_log() -> None:
    """Reports of library functions are printed, as a command would."""
    show_log()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """A Python for commands and scripts, started in the fraction of a second: see tests/warm_python.py."""
    with warm_python() as program:
        yield program


@pytest.fixture(scope="session")
def real_head_ct() -> Path:
    """28 slices of one real head CT: 512x512, 16-bit signed, intercept 0, 18.5 degrees of tilt, uneven gaps."""
    if not HEAD_CT.is_dir():
        pytest.skip(f"the real head CT is not there: {HEAD_CT}")
    return HEAD_CT


@pytest.fixture(scope="session")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of a tiny competition: input/ only. Not to be written to."""
    root = tmp_path_factory.mktemp("competition")
    make_competition(root / "input", patients=10, slices=5, size=64, difficulty="easy", seed=1)
    return root


@pytest.fixture(scope="session")
def preprocessed(competition: Path) -> Layout:
    """The same with cache/ filled. Not to be written to."""
    layout = Layout(competition)
    for split, csv in (("train", "stage_2_train.csv"), ("test", "stage_2_sample_submission.csv")):
        table, _ = dicom_to_dataframe(
            competition / "input" / csv,
            competition / "input" / f"stage_2_{split}",
            test=split == "test",
            engine="serial",
        )
        write_table(table, layout.table(split))
        index, _ = create_dataset(table, layout.store(split), engine="serial")
        if split == "train":
            stored = table.merge(index[["ID", "pixel_hash", "brain_share"]], on="ID")
            write_table(make_folds(stored), layout.folds)
    return layout


@pytest.fixture(scope="session")
def write_labels() -> Callable[..., Path]:
    """Write a label CSV: six rows a slice, and what else there shall be in it."""

    def _write(path: Path, slice_ids: list[str], labels: np.ndarray, extra: str = "") -> Path:
        rows = pd.DataFrame({"ID": row_ids(pd.Series(slice_ids)), "Label": labels.ravel()})
        path.write_text(rows.to_csv(index=False) + extra)
        return path

    return _write


# the smallest network of timm that has batch norm, on the smallest images
QUICK = [
    "network.architecture=timm/test_efficientnet",
    "network.pretrained=none",
    "image_size=32",
    "batch_size=8",
    "workers=0",
    "optimizer.lr=1e-3",
]


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """accelerate keeps the first precision that a process asks for; a command asks once, tests ask often."""
    from accelerate.state import AcceleratorState  # not before the number of threads is set, above: torch reads it once

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def make_config(repository: Path) -> Callable[..., Config]:
    """The conf of the quickest network, with `key=value` overrides."""
    return lambda *overrides: load_config(repository / "conf/se_resnext50_32x4d.yaml", [*QUICK, *overrides])


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config()
