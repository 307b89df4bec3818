import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.classify.split import Slices
from src.classify.stacks import Stacks
from src.classify.tryout import NEAR_ZERO, _few, describe, measure, overfit
from src.config import Config
from src.errors import UserError
from src.files.layout import Layout


def test_a_network_that_learns_a_handful_by_heart(config: Config, preprocessed: Layout) -> None:
    steps, loss = overfit(config, 0, preprocessed, 16)
    assert loss < NEAR_ZERO
    assert steps > 5


def test_one_that_does_not_is_told(config: Config, preprocessed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.classify.tryout.MOST_STEPS", 3)
    with pytest.raises(UserError, match=r"after 3 steps on 16 slices the loss is 0.*try a higher optimizer.lr"):
        overfit(config, 0, preprocessed, 16)


def test_half_of_the_slices_bleed() -> None:
    targets = np.zeros((100, 6), dtype=np.uint8)
    targets[:30, [0, 2]] = 1
    rows = np.arange(100)[:, None]
    slices = Slices(Stacks(None, [f"ID_{i}" for i in range(100)], rows), targets)  # type: ignore[arg-type] - nothing is read
    for count in (16, 5, 2):
        few = _few(slices, count, seed=1)
        assert len(set(few.ids)) == count
        assert few.targets[:, 0].sum() == count - count // 2
    assert len(_few(slices, 80, seed=1).ids) == 70  # all 30 that bleed, and 40


def test_what_a_conf_amounts_to(config: Config, preprocessed: Layout) -> None:
    text = describe(config, 0, preprocessed)
    assert yaml.safe_load(text.split("\n\n")[0])["image_size"] == 32
    assert "million parameters" in text
    assert "steps an epoch" in text
    sizes = measure(config)
    assert sizes.weight_bytes == 4 * sizes.parameters
    larger = measure(config.model_copy(update={"image_size": 64}))
    assert larger.activation_bytes == pytest.approx(4 * sizes.activation_bytes, rel=0.05)
    assert sizes.training_bytes(config) > 4 * sizes.weight_bytes


def test_nothing_is_written(config: Config, preprocessed: Layout, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    command = [
        sys.executable,
        "-m",
        "src.classify.train",
        str(tmp_path / "c.yaml"),
        "--fold",
        "0",
        "--root",
        str(tmp_path),
    ]
    for extra, expected in ((["--dry-run"], "steps an epoch"), (["--overfit", "4"], "c: loss 0.0")):
        result = subprocess.run([*command, *extra], cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "cache"]
