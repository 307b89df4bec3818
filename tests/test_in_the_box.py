"""model/pretrained, the detector that comes with the repository."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.generated import predict
from src.detector import Detector
from src.evaluate.score import auc_by_label

MOST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def box(repository: Path) -> Path:
    return repository / "model" / "pretrained"


def test_it_is_small_and_whole_in_both_runtimes_and_says_what_it_is(box: Path) -> None:
    assert sum(path.stat().st_size for path in box.rglob("*") if path.is_file()) <= MOST_BYTES
    for runtime in ("torch", "onnx"):
        detector = Detector.load(box, runtime=runtime, device="cpu")
        assert detector.description.notice.startswith("This detector has seen generated heads alone, no patient's")
        assert detector.description.distance is not None
        assert all(value is not None for value in detector.operating_points["study"]["youden"].values())
    card = (box / "MODEL_CARD.md").read_text()
    for words in ("Not a medical device", "Apache-2.0", "not calibrated", "bin/pretrain.sh"):
        assert words in card


def test_it_reads_a_study_where_no_detector_was_trained_and_tells_so(
    repository: Path, python: str, real_head_ct: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(tmp_path), "JOBS": "1"}
    command = ["sh", str(repository / "bin/infer.sh"), str(real_head_ct)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not there; the detector in the box reads" in done.stdout + done.stderr
    (path,) = (tmp_path / "answers").glob("*/summary.json")
    summary = json.loads(path.read_text())
    assert any(each.startswith("This detector has seen generated heads alone") for each in summary["warnings"])
    # nobody annotated an acute bleed in this head
    assert summary["calls"]["youden"]["any"]["positive"] is False
    assert summary["unlike_training"] < summary["slices"] / 2


def test_it_tells_bleeds_of_heads_that_it_has_not_seen(box: Path) -> None:
    studies = predict(Detector.load(box, runtime="onnx", device="cpu"), 12, 12, 128, "hard", 99)["study"]
    assert np.nan_to_num(auc_by_label(studies.targets, studies.probabilities)[0]) > 0.8
