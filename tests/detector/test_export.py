import os
import subprocess
from pathlib import Path

import pytest

from src.detector import Detector
from src.ensemble.recipe import Recipe
from tests.detector.conftest import Trained


def _script(repository: Path, python: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(root)}
    command = ["sh", str(repository / "bin/export.sh"), *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_the_script_says_the_size_and_writes_the_detector(
    repository: Path, python: str, trained: Trained, tmp_path: Path
) -> None:
    trained.submit("last", Recipe())
    folder = tmp_path / "detector"
    result = _script(repository, python, trained.layout.root, "--folds", "0", "--output", str(folder))
    assert result.returncode == 0, result.stderr
    first, last = result.stdout.splitlines()
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    assert first.startswith(f"{folder}: 4 networks, ")
    assert float(first.split()[-2]) == pytest.approx(size, abs=0.06)  # it says tenths, and files have headers
    assert last.startswith(f"{folder}: written")
    assert len(Detector.load(folder).description.networks) == 4


def test_the_script_adds_onnx_models(repository: Path, python: str, trained: Trained, tmp_path: Path) -> None:
    trained.submit("cnn", Recipe())
    folder = tmp_path / "detector"
    result = _script(repository, python, trained.layout.root, "--networks", "1", "--onnx", "--output", str(folder))
    assert result.returncode == 0, result.stderr
    size = sum(path.stat().st_size for path in folder.rglob("*/*")) / 1e6
    said = result.stdout.splitlines()[-2].removesuffix(" MB with their ONNX models")
    assert float(said.split()[-1]) == pytest.approx(size, rel=0.2)  # small networks: what is not weights counts
    assert Detector.load(folder, runtime="auto", device="cpu").runtime.provenance["runtime"] == "onnx"


def test_mistakes_end_in_one_line(repository: Path, python: str, tmp_path: Path) -> None:
    for arguments, words in (
        ([], "submission/manifest.json is missing; expected the manifest of a submission; run sh bin/ensemble.sh"),
        (["--networks", "0"], "0: expected 1 or more"),
        (["--fold", "x"], "see python -m src.detector.export -h"),
    ):
        result = _script(repository, python, tmp_path, *arguments)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert words in line


def test_paths_mean_what_they_mean_to_the_caller(repository: Path, python: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    result = _script(repository, python, tmp_path, "--output", "mine")
    assert result.returncode == 2
    assert result.stderr.startswith("error: mine is there and is no detector")
