import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from src.train import versions
from src.train.versions import note_versions, revision


def test_what_it_ran_on(tmp_path: Path) -> None:
    path = tmp_path / "versions.yaml"
    note_versions(path, "epoch 1, step 0", processes=1)
    note_versions(path, "epoch 1, step 7", processes=1)  # the same machine
    (entry,) = yaml.safe_load(path.read_text())
    assert entry["since"] == "epoch 1, step 0"
    assert entry["packages"]["torch"] == version("torch")
    assert entry["packages"]["accelerate"] == version("accelerate")
    note_versions(path, "epoch 2, step 0", processes=2)
    entries = yaml.safe_load(path.read_text())
    assert [(each["since"], each["processes"]) for each in entries] == [("epoch 1, step 0", 1), ("epoch 2, step 0", 2)]


def test_the_revision_is_the_commit_and_says_where_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "versions.py"))
    assert revision() is None  # no repository

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "versions.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "v1")
    assert revision() == git("rev-parse", "HEAD")
    (tmp_path / "versions.py").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{40}-dirty", revision() or "")


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert revision() is None
