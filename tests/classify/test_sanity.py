import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.classify.dataset import LabelledSlices, read_fold_split
from src.classify.inputs import SliceInputs
from src.classify.network import build_network
from src.classify.sanity import NEAR_ZERO, _few, describe, measure, overfit
from src.config import Config
from src.errors import UserError
from src.files.layout import Layout


def test_a_network_overfits_a_few_slices(config: Config, preprocessed: Layout) -> None:
    steps, loss, count = overfit(config, 0, preprocessed, 17)  # not 8 and 8 and 1
    assert loss < NEAR_ZERO
    assert count == 17
    assert steps > 5


def test_one_that_does_not_is_told(config: Config, preprocessed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.classify.sanity.MOST_STEPS", 3)
    with pytest.raises(UserError, match=r"after 3 steps on 16 slices the loss is 0.*try a higher optimizer.lr"):
        overfit(config, 0, preprocessed, 16)


def test_half_of_the_slices_bleed() -> None:
    targets = np.zeros((100, 6), dtype=np.uint8)
    targets[:30, [0, 2]] = 1
    rows = np.arange(100)[:, None]
    inputs = SliceInputs(None, [f"ID_{i}" for i in range(100)], rows)  # type: ignore[arg-type] - nothing is read
    slices = LabelledSlices(inputs, targets)
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
    sizes = measure(build_network(config), config)
    assert sizes.weight_bytes == 4 * sizes.parameters
    larger = measure(build_network(config), config.model_copy(update={"image_size": 64}))
    assert larger.activation_bytes == pytest.approx(4 * sizes.activation_bytes, rel=0.05)
    assert sizes.training_bytes(config) > 4 * sizes.weight_bytes


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.name=Adamw", "optimizer.name: Adamw is unknown"),
        ("optimizer.name=FusedAdam", "optimizer.name: FusedAdam"),
        ("optimizer.arguments={foo: 1}", "Adam has no argument foo"),
        ("augment=[{name: Rotat}]", "Rotat is not an allowed transform"),
        ("network.pretrained=/nope", "/nope is missing"),
        ("batch_size=1000", "batch_size 1000 is larger than fold 0's"),
        ("network.architecture=timm/resnet10x", "did you mean"),
        ("windows=[{level: 0, width: 900}]", "the image store keeps"),
    ],
)
def test_a_dry_run_refuses_what_training_would(
    make_config: Callable[..., Config], preprocessed: Layout, override: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        describe(make_config(override), 0, preprocessed)


def test_more_slices_than_there_are(config: Config, preprocessed: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.classify.sanity.NEAR_ZERO", 10)  # at once
    training, _ = read_fold_split(preprocessed, 0)
    bleeds = int(training.targets[:, 0].sum())
    assert overfit(config, 0, preprocessed, 500)[2] == bleeds + min(250, len(training) - bleeds)
    with pytest.raises(UserError, match="too few slices to overfit, 1: expected 2 or more"):
        overfit(config, 0, preprocessed, 1)


def test_nothing_is_written(
    config: Config, preprocessed: Layout, tmp_path: Path, repository: Path, python: str
) -> None:
    (tmp_path / "cache").symlink_to(preprocessed.root / "cache")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    command = [
        python,
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
