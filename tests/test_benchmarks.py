"""The benchmarks run: on little, and without a look at the figures."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.measure import alone
from src.dicom import find_series

RUNS = {
    "preprocess": (
        ["--slices", "30", "--rounds", "1", "--no-full-size"],
        ["Storing ", "Reading", "Size", "Headers", "Memory", "30 slices on"],
    ),
    "loader": (
        ["--slices", "30", "--rounds", "1", "--image-size", "64", "--workers", "1", "--index", "1000"],
        ["A training sample of 64 x 64", "Loaders", "Memory over an index of 1000 slices"],
    ),
    "decoder": (["--slices", "2", "--rounds", "1"], ["Decoding 2 slices"]),
    "predict": (
        [
            "--confs",
            "efficientnet-b2",
            "--slices",
            "4",
            "--image-size",
            "32",
            "--folds",
            "1",
            "--workers",
            "0",
            "--rounds",
            "1",
        ],
        ["6 slices of 32 px by 2 checkpoints in two views"],
    ),
    "infer": (
        ["--confs", "efficientnet-b2", "--networks", "1", "--slices", "2", "--image-size", "32", "--rounds", "1"],
        ["A study of 2 slices at 32 px", "| 1 and 1 GRUs | onnx | "],
    ),
    "ensemble": (
        ["--slices", "3000", "--test-slices", "500"],
        ["The ensemble step: 20 files of 500 test slices, 20 out of fold of 3000 training slices"],
    ),
    "synthetic": (
        ["--patients", "8", "--slices", "4", "--size", "32", "--rounds", "1"],
        ["Generating easy slices of 32 x 32", "Memory of one process"],
    ),
    "sequence": (
        ["--series", "22", "--steps", "1", "--confs", "gru"],
        ["Disk for embeddings of 874035 slices", "Training and prediction, 35 slices a series"],
    ),
    "summary": (
        ["--slices", "3000"],
        ["The summary, all imports included in the memory", "AUC and average precision of the label any"],
    ),
    "coverage": (
        ["--patients", "12", "--simulations", "3", "--resamples", "20"],
        ["Coverage of 95 % intervals", "Mean width"],
    ),
    "train": (
        [
            "--confs",
            "efficientnet-b2",
            "--image-size",
            "32",
            "--batch-size",
            "2",
            "--rounds",
            "1",
            "--steps",
            "1",
            "--workers",
            "0",
            "--settings",
            "fp32",
        ],
        ["Our loop against", "Settings, 32 px", "efficientnet-b2: where a step's time goes", "With real loading"],
    ),
}


WITH_HEAD_CT = ("decoder", "loader", "predict", "train")  # preprocess takes slices of 512 x 512 alone


@pytest.fixture(scope="module")
def head_ct(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small series, which spares each benchmark the generation of a large one."""
    series, _ = find_series([competition / "input/stage_2_train"])
    folder = tmp_path_factory.mktemp("head_ct")
    for slice_id in max(series, key=len).ids:
        shutil.copy(competition / f"input/stage_2_train/{slice_id}.dcm", folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_they_run(repository: Path, python: str, head_ct: Path, name: str) -> None:
    arguments, titles = RUNS[name]
    if name in WITH_HEAD_CT:
        arguments = [*arguments, "--head-ct", str(head_ct)]
    result = subprocess.run(
        [python, "-m", f"benchmarks.{name}", *arguments], cwd=repository, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for title in titles:
        assert f"\n{title}" in result.stdout, result.stdout


def test_the_second_stage_is_compared(repository: Path, python: str, tmp_path: Path) -> None:
    classifier, sequence = tmp_path / "small.yaml", tmp_path / "gru.yaml"
    classifier.write_text(
        f"base: {repository}/conf/demo/base.yaml\nnetwork: {{architecture: timm/test_efficientnet}}\nimage_size: 32\n"
    )
    sequence.write_text(f"base: {repository}/conf/demo/sequence/gru.yaml\nbatch_size: 2\nepochs: 1\n")
    what = ["--patients", "12", "--slices", "4", "--size", "32", "--folds", "0", "1"]
    confs = ["--classifier", str(classifier), "--sequences", str(sequence), "--root", str(tmp_path / "root")]
    result = subprocess.run(
        [python, "-m", "benchmarks.second_stage", *what, *confs], cwd=repository, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    candidates = ("bag", "bag, smoothed", "epoch 3", "gru alone", "gru read shuffled", "gru")
    for row in (*candidates, "gru than bag", "gru than bag, smoothed", "gru than gru read shuffled"):
        assert f"\n| {row} | " in result.stdout, result.stdout


def test_what_a_process_of_its_own_raises_is_heard() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: "):
        alone(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="the process was ended"):
        alone(os._exit, 3)
