"""Two runs of the same step, started together: both end well, with the bytes that one alone makes."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.config import Config, dump_config
from src.files.layout import Layout

MODULES = {
    "table": "src.preprocess.dicom_to_dataframe",
    "store": "src.preprocess.create_dataset",
    "folds": "src.preprocess.make_folds",
    "audit": "src.preprocess.audit",
    "train": "src.classify.train",
    "predict": "src.classify.predict",
    "embed": "src.sequence.embed",
    "second stage": "src.sequence.train",
    "second stage's predictions": "src.sequence.predict",
    "submission": "src.ensemble.make_submission",
    "detector": "src.detector.export",
}
# what a step makes, under the root; figures of speed and dates are of each run
MADE = {
    "table": ["cache/train.parquet"],
    "store": ["cache/train"],
    "folds": ["cache/folds.parquet"],
    "audit": ["cache/audit.json"],
    "train": ["model/quick/fold*/epoch*.safetensors"],
    "predict": ["model/quick/fold*/*_epoch*.parquet"],
    "embed": ["model/quick/fold*/embeddings_*"],
    "second stage": ["model/quick+gru/fold*/epoch*.safetensors"],
    "second stage's predictions": ["model/quick+gru/fold*/*_epoch*.parquet"],
    "submission": ["submission/*"],
    "detector": ["model/detector"],
}
# lines of the second run, which finds the work of the first
FOUND = {
    "train": "trained already",
    "predict": "there already",
    "embed": "there already",
    "second stage": "trained already",
    "second stage's predictions": "there already",
}


@dataclass
class Pipeline:
    """Steps on a root of their own."""

    root: Path
    arguments: dict[str, list[str]]
    python: str
    repository: Path

    def start(self, step: str, said: Path) -> subprocess.Popen[bytes]:
        command = [self.python, "-m", MODULES[step], *self.arguments[step]]
        with said.open("a") as file:
            return subprocess.Popen(command, cwd=self.repository, stdout=file, stderr=file)

    def paths(self, step: str) -> list[Path]:
        return [path for pattern in MADE[step] for path in self.root.glob(pattern)]

    def made(self, step: str) -> dict[Path, bytes]:
        files = [each for path in self.paths(step) for each in (path.rglob("*") if path.is_dir() else [path])]
        return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def pipeline(
    competition: Path,
    make_config: Callable[..., Config],
    repository: Path,
    python: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pipeline:
    """Each step as it is run alone. A root of its own: the shared one is not to be written to."""
    root = tmp_path_factory.mktemp("root")
    (root / "input").symlink_to(competition / "input")
    layout = Layout(root)
    config = make_config("epochs=1", "scheduler.milestones=[]").model_copy(update={"name": "quick"})
    (root / "quick.yaml").write_text(dump_config(config))
    sequence, one = root / "gru.yaml", ["--fold", "0", "--root", str(root)]
    sequence.write_text(f"base: {repository}/conf/demo/sequence/gru.yaml\nbatch_size: 2\nepochs: 1\nworkers: 0\n")
    over = [str(sequence), "--classifier", str(root / "quick.yaml"), "--epoch", "1", *one]
    table, folds = str(layout.table("train")), str(layout.folds)
    sample = str(root / "input/stage_2_sample_submission.csv")
    of_run = ["--confs", str(root / "quick.yaml"), "--folds", "0", "--epochs", "1", "--sequences", str(sequence)]
    csv, images = str(root / "input/stage_2_train.csv"), str(root / "input/stage_2_train")
    made = Pipeline(
        root,
        {
            "table": ["--csv", csv, "--images", images, "--output", table, "--engine", "serial"],
            "store": ["--table", table, "--output", str(layout.store("train")), "--engine", "serial"],
            "folds": ["--table", table, "--store", str(layout.store("train")), "--output", folds],
            "audit": ["--root", str(root)],
            "train": [str(root / "quick.yaml"), *one],
            "predict": [str(root / "quick.yaml"), *one, "--split", "valid", "test", "--epochs", "1"],
            "embed": [str(root / "quick.yaml"), *one, "--epoch", "1"],
            "second stage": over,
            "second stage's predictions": [*over, "--split", "valid", "test"],
            "submission": ["--root", str(root), *of_run, "--sample", sample, "--output", str(layout.submission)],
            "detector": ["--root", str(root)],
        },
        python,
        repository,
    )
    _test_set(made, root, sample)
    for step in MODULES:
        _end_well(root / "alone.txt", made.start(step, root / "alone.txt"))
    return made


def _test_set(made: Pipeline, root: Path, sample: str) -> None:
    """The table and the store of the test set, by the same steps."""
    layout = Layout(root)
    table, images = str(layout.table("test")), str(root / "input/stage_2_test")
    arguments = {
        "table": ["--csv", sample, "--images", images, "--output", table, "--engine", "serial", "--test"],
        "store": ["--table", table, "--output", str(layout.store("test")), "--engine", "serial"],
    }
    for step in arguments:
        run = Pipeline(root, arguments, made.python, made.repository)
        _end_well(root / "test.txt", run.start(step, root / "test.txt"))


def _end_well(said: Path, *processes: subprocess.Popen[bytes]) -> None:
    assert [process.wait() for process in processes] == [0] * len(processes), said.read_text()


@pytest.mark.parametrize("step", MODULES)
def test_two_runs_at_once(pipeline: Pipeline, step: str, tmp_path: Path) -> None:
    alone = pipeline.made(step)
    assert alone
    for path in pipeline.paths(step):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = tmp_path / "said.txt"
    _end_well(said, *(pipeline.start(step, said) for _ in range(2)))
    assert pipeline.made(step) == alone
    if step in FOUND:
        splits = 1 if step in ("train", "second stage") else 2
        assert said.read_text().count(FOUND[step]) == splits, said.read_text()
    assert not list(pipeline.root.rglob(".*partial*"))
    assert not list(pipeline.root.rglob("partial_predictions"))
