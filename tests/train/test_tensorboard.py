import resource
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.train.tensorboard import TensorBoard


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_points_over_steps(tmp_path: Path) -> None:
    with TensorBoard(tmp_path / "curves", step=0) as curves:
        curves.add({"step/loss": 0.5, "step/lr": 0.25}, 1)
        curves.add({"step/loss": 0.125, "epoch/auc_any": float("nan")}, 2)
    assert read_curves(tmp_path / "curves") == {"step/loss": [(1, 0.5), (2, 0.125)], "step/lr": [(1, 0.25)]}


def test_what_an_interrupted_run_made_after_its_last_save_goes(tmp_path: Path) -> None:
    with TensorBoard(tmp_path, step=0) as curves:
        for step in range(1, 8):
            curves.add({"step/loss": 1.0}, step)
    with TensorBoard(tmp_path, step=4) as curves:
        for step in range(5, 10):
            curves.add({"step/loss": 2.0}, step)
    assert read_curves(tmp_path)["step/loss"] == [(1, 1), (2, 1), (3, 1), (4, 1), *[(step, 2) for step in range(5, 10)]]


def test_what_was_flushed_is_on_the_disk(tmp_path: Path) -> None:
    curves = TensorBoard(tmp_path, step=0)
    curves.add({"step/loss": 1.0}, 1)
    curves.flush()
    assert read_curves(tmp_path) == {"step/loss": [(1, 1.0)]}


def test_nothing_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TensorBoard(None, step=0) as curves:
        curves.add({"step/loss": 1.0}, 1)
        curves.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_is_an_error_here_and_names_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as full, TensorBoard(tmp_path, step=0) as curves:  # noqa: PT012
            for step in range(1, 200):
                curves.add({"step/loss": 1.0}, step)
            time.sleep(0.1)  # a thread would fail now
            curves.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (written,) = tmp_path.iterdir()
    assert full.value.filename == str(written)
    assert capfd.readouterr() == ("", "")
    with TensorBoard(tmp_path, step=10) as curves:  # and what was written of the last record does no harm
        curves.add({"step/loss": 2.0}, 11)
    assert read_curves(tmp_path)["step/loss"] == [*((step, 1.0) for step in range(1, 11)), (11, 2.0)]
