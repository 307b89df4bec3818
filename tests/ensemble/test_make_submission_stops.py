"""A submission that is stopped at any of its writes, doubled, or made in another folder."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.ensemble import make as make_module
from src.ensemble.make import require_as_made
from src.ensemble.make_submission import main
from src.files.checksum import file_sha256
from tests.ensemble.conftest import making

Command = Callable[..., dict[str, bytes]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process: (root, more arguments) -> the files that it leaves."""

    def _command(root: Path, *more: str) -> dict[str, bytes]:
        monkeypatch.setattr(sys, "argv", ["make_submission", *making(root, *more)])
        main()
        return {path.name: path.read_bytes() for path in (root / "submission").iterdir()}

    return _command


def _stopping(count: int) -> Callable[[Path, Path], Path]:
    """Path.replace that stops the run in place of what follows the first `count` calls."""
    real, left = Path.replace, iter(range(count))

    def replace(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(path, target)

    return replace


@pytest.mark.parametrize("before", ["nothing", "another submission"])
def test_a_stop_at_any_write_changes_nothing_in_the_end(
    own: Path, command: Command, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    fitted = ("--blend", "weights", "--smooth", "auto", "--calibrate", "temperature")
    whole = command(own, *fitted)
    assert set(whole) == {"submission.csv", "out_of_fold.parquet", "manifest.json"}
    for stop_at in range(len(whole)):
        shutil.rmtree(own / "submission")
        if before != "nothing":
            command(own)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patched.setattr(Path, "replace", _stopping(stop_at))
            command(own, *fitted)
        assert command(own, *fitted) == whole


def test_in_another_folder_the_paths_alone_differ(own: Path, command: Command, tmp_path: Path) -> None:
    one = command(own, "--blend", "weights")
    shutil.copytree(own, tmp_path / "other", symlinks=True)
    shutil.rmtree(tmp_path / "other/submission")
    other = command(tmp_path / "other", "--blend", "weights")
    says, said = (json.loads(each.pop("manifest.json")) for each in (one, other))
    assert says.pop("checksum") != said.pop("checksum")
    assert json.dumps(said).replace(str(tmp_path / "other"), str(own)) == json.dumps(says)
    assert other == one


def test_the_files_beside_a_submission_are_of_one_run(
    own: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make_module._write_out_of_fold

    begun: list[None] = []

    def slowly(*arguments: Any) -> None:
        begun.append(None)
        if len(begun) == 1:
            time.sleep(0.5)  # the first run, between two files of three
        real(*arguments)

    monkeypatch.setattr(make_module, "_write_out_of_fold", slowly)
    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr("src.ensemble.make_submission.write", lambda *arguments: written.append(arguments))
    for blend in ("mean", "logit-mean"):
        monkeypatch.setattr(sys, "argv", ["make_submission", *making(own, "--blend", blend)])
        main()
    runs = [threading.Thread(target=make_module.write, args=each) for each in written]
    for run in runs:
        run.start()
        time.sleep(0.1)
    for run in runs:
        run.join()
    submission = own / "submission/submission.csv"
    require_as_made(submission)
    manifest = json.loads(submission.with_name("manifest.json").read_text())
    assert manifest["recipe"]["blend"] == "logit-mean"
    assert manifest["out_of_fold_file"] == file_sha256(submission.with_name("out_of_fold.parquet"))
