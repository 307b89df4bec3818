"""bin/pretrain.sh in small: the detector in the box can be made again."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from src.ct.series import Series
from src.detector import Detector

SMALL = {"WEIGHTS": "none", "PATIENTS": "12", "SLICES": "4", "SIZE": "32", "JOBS": "1"}


def test_the_script_makes_a_detector_that_says_what_it_is(repository: Path, python: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(tmp_path / "root"), "OUTPUT": "made", **SMALL}
    command = ["sh", str(repository / "bin/pretrain.sh")]
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "training: " not in done.stderr

    detector = Detector.load(tmp_path / "made", runtime="onnx", device="cpu")
    assert [network.name for network in detector.description.networks] == ["lite0", "lite0+gru"]
    assert detector.description.notice.startswith("This detector has seen generated heads alone")
    assert detector.operating_points["study"].keys() == {"youden", "sensitivity_95", "specificity_95"}
    card = (tmp_path / "made/MODEL_CARD.md").read_text()
    assert "no patient's" in card
    series = Series([np.full((64, 64), 30, np.int16)] * 3, np.arange(3) * 5.0, ["a", "b", "c"])
    assert detector(series).shape == (3, 6)
    maps = detector.activation_maps(series)
    assert maps is not None
    assert maps.shape[:2] == (3, 6)


@pytest.mark.parametrize("wrong", [{"PATIENTS": "many"}, {"WEIGHTS": "missing.pth"}])
def test_mistakes_are_one_line(repository: Path, python: str, tmp_path: Path, wrong: dict[str, str]) -> None:
    environment = {
        **os.environ,
        "PYTHON": python,
        "ICH_ROOT": str(tmp_path / "root"),
        "OUTPUT": "made",
        **SMALL,
        **wrong,
    }
    done = subprocess.run(
        ["sh", str(repository / "bin/pretrain.sh")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert next(iter(wrong.values())) in done.stderr
