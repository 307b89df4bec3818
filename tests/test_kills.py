"""Kills at random moments of every script: the next run ends in the same files, byte for byte, and leaves no others."""

import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# each script, and the files that it makes
MAKES = {
    "preprocess": ("cache/*",),
    "train": ("model/small/fold0",),
    "predict": ("model/small/fold0/valid_*", "model/small/fold0/test_*", "model/small/test_*"),
    "sequence": ("model/small/fold0/embeddings_*", "model/small+gru"),
    "ensemble": ("submission",),
    "export": ("model/detector",),
}
LATER = {"train": ("predict", "sequence")}  # which write into the folder that training makes
DIFFER = {"curves", "metrics.csv", "versions.yaml"}  # they hold times

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def small(repository: Path, competition: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a small run: its root, and a conf of each stage."""
    root = tmp_path_factory.mktemp("kills")
    shutil.copytree(competition / "input", root / "input")
    classifier, sequence = root / "small.yaml", root / "gru.yaml"
    classifier.write_text(
        f"base: {repository}/conf/demo/base.yaml\nnetwork: {{architecture: timm/test_efficientnet}}\n"
        "image_size: 32\nbatch_size: 4\nepochs: 2\nsave_steps: 1\n"
    )
    sequence.write_text(f"base: {repository}/conf/demo/sequence/gru.yaml\nbatch_size: 2\nepochs: 2\n")
    return {
        **{"ICH_ROOT": str(root), "CONFS": str(classifier), "SEQUENCES": str(sequence), "FOLDS": "0"},
        **{"EPOCHS": "1 2", "EMBED_EPOCH": "2", "MEMBERS": "all"},
    }


@pytest.fixture(scope="module")
def start(repository: Path, python: str, small: dict[str, str]) -> Start:
    """Start a script as the leader of its own session, so that all that it starts can be killed."""

    def _start(name: str) -> subprocess.Popen[bytes]:
        command = ["sh", str(repository / f"bin/{name}.sh")]
        environment = {**os.environ, "PYTHON": python, **small}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    return _start


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def _files(root: Path) -> dict[str, bytes]:
    """All files of a root but curves and how long stages took, and the bytes of those that hold no times."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not {"curves", "timing"} & set(path.parts))
    return {str(path.relative_to(root)): b"" if path.name in DIFFER else path.read_bytes() for path in files}


def _delete(root: Path, script: str) -> None:
    for pattern in MAKES[script]:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_the_same_files_after_kills(start: Start, small: dict[str, str], request: pytest.FixtureRequest) -> None:
    root, took = Path(small["ICH_ROOT"]), {}
    for script in MAKES:
        began = time.monotonic()
        _finish(start(script))
        took[script] = time.monotonic() - began
    whole = _files(root)
    assert {name.split("/")[0] for name in whole} >= {"cache", "model", "submission"}

    seed = secrets.randbits(32)
    draws = random.Random(seed)  # noqa: S311 - nothing secret
    killed = []
    for script in draws.choices(list(MAKES), k=30 if request.config.getoption("--slow") else 2):
        for made in (script, *LATER.get(script, ())):
            _delete(root, made)
        moment = draws.uniform(0, took[script])
        process = start(script)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        killed.append(f"{script} after {moment:.2f} s")
        for again in (script, *LATER.get(script, ())):
            _finish(start(again))
        found = _files(root)
        wrong = [name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name)]
        assert not wrong, f"seed {seed}: {', '.join(killed)}"
