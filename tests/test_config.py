from pathlib import Path

import pytest

from src.config import SchedulerConf, changed_keys, dump_config, load_config, load_sequence_config
from src.errors import UserError


@pytest.fixture
def conf(repository: Path, tmp_path: Path) -> Path:
    """A conf of one's own beside the base."""
    (tmp_path / "base.yaml").write_text((repository / "conf/base.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text("base: base.yaml\nnetwork: {architecture: timm/resnet18}\nbatch_size: 4\n")
    return path


def test_settings_of_the_real_job(repository: Path) -> None:
    se_resnext = load_config(repository / "conf/se_resnext50_32x4d.yaml")
    efficientnet = load_config(repository / "conf/efficientnet-b2.yaml")
    assert se_resnext.name == "se_resnext50_32x4d"
    assert (se_resnext.image_size, se_resnext.batch_size, se_resnext.optimizer.lr) == (512, 28, 6e-5)
    assert (efficientnet.image_size, efficientnet.batch_size, efficientnet.optimizer.lr) == (512, 36, 5e-5)
    for config in (se_resnext, efficientnet):
        assert (config.epochs, config.precision, config.network.pretrained) == (3, "fp16", "imagenet")
        assert config.scheduler.milestones == (1, 2)
        assert config.scheduler.gamma == pytest.approx(2 / 3, abs=1e-6)
        assert [each.name for each in config.augment] == ["RandomResizedCrop", "HorizontalFlip", "Rotate"]


def test_a_conf_is_its_base_and_its_differences(conf: Path) -> None:
    config = load_config(conf)
    assert config.network.architecture == "timm/resnet18"
    assert config.network.pretrained == "imagenet"  # the base's, though the section is the conf's too
    assert config.batch_size == 4


def test_overrides(conf: Path) -> None:
    config = load_config(conf, ["optimizer.lr=1e-4", "network.pretrained=none", "scheduler.milestones=[2]"])
    assert config.optimizer.lr == 1e-4
    assert config.network.pretrained == "none"
    assert config.scheduler.milestones == (2,)
    assert load_config(conf, ["compile=yes"]).compile is True
    assert load_config(conf, ["optimizer.lr=1"]).optimizer.lr == 1.0
    # an optimiser's own arguments may be truth values
    assert load_config(conf, ["optimizer.arguments={amsgrad: true}"]).optimizer.arguments == {"amsgrad": True}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "optimizer.learning_rate=1",
            "unknown key optimizer.learning_rate; known here: arguments, clip_norm, lr, name",
        ),
        ("optimiser.lr=1", "unknown key optimiser; did you mean optimizer?"),
        ("windows=[{lvl: 40, width: 80}]", r"unknown key windows.0.lvl; did you mean level\?$"),
        ("windows=3", "windows: input should be a list, found 3"),
        ("tta=[{name: Rotate, degres: 5}]", r"unknown key tta.0.Rotate.degres; did you mean degrees\?$"),
        ("tta=[{name: Rotat, degrees: 5}]", "tta.0.name: expected one of 'Identity', .* 'Scale', found 'Rotat'$"),
        ("tta=[{degrees: 5}]", "key tta.0.name is missing$"),
        ("tta=[Identity]", "tta.0: input should be a section of keys, found 'Identity'$"),
        ("network=3", "network: input should be a section of keys, found 3$"),
        ("tta=[]", "tta: list should have at least 1 item"),
        ("batch_size=many", "batch_size: .*integer.*, found 'many'"),
        ("batch_size=0", "batch_size: .*greater than or equal to 2, found 0"),
        ("optimizer.lr=.nan", "optimizer.lr: .*finite"),
        ("precision=fp8", "precision: .*'fp16', 'bf16' or 'none', found 'fp8'"),
        ("batch_size", "expected key=value"),
        ("batch_size.x=1", "batch_size holds a value"),
        ("optimizer.lr.x=1", "optimizer.lr holds a value"),
        ("optimizer.lr=true", "optimizer.lr: expected neither true nor false, found True$"),
        ("batch_size='36'", "batch_size: expected a number, without quotes, found '36'$"),
        ("optimizer.lr='0.001'", "optimizer.lr: expected a number, without quotes, found '0.001'$"),
        ("epochs=yes", "epochs: expected neither true nor false, found True$"),
        ("label_weights.any=true", "label_weights.any: expected neither true nor false, found True$"),
        ("scheduler.milestones=[true]", "scheduler.milestones.0: expected neither true nor false, found True$"),
        ("tta=[{name: Rotate, degrees: true}]", "tta.0.Rotate.degrees: expected neither true nor false, found True$"),
        ("ema_decay=off", "ema_decay: expected neither true nor false, found False$"),
        ("compile=1", "compile: input should be a valid boolean, found 1$"),
        ("network.pretrained=no", "network.pretrained: input should be a valid string, found False$"),
        ("optimizer.arguments={lr: 5}", "optimizer.arguments: lr has its place in optimizer itself"),
        ("seed={", "not valid YAML"),
        (f"seed={'[' * 5000}", "not valid YAML"),
        (f"seed={2**64}", "seed: .*less than or equal to"),
        ("neighbours=1000", "neighbours: .*less than or equal to 50, found 1000"),
        ("image_size=1000000", "image_size: .*less than or equal to 4096"),
        ("batch_size=10000000", "batch_size: .*less than or equal to 65536"),
        ("name=other", "unknown key name; a conf's name is its file's"),
    ],
)
def test_mistakes_are_named(conf: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_config(conf, [override])


def test_confs_of_another_kind(repository: Path) -> None:
    classifier, sequence = repository / "conf/efficientnet-b2.yaml", repository / "conf/sequence/gru.yaml"
    with pytest.raises(UserError, match=r"gru\.yaml is a conf of another kind; expected a classifier's conf, such as"):
        load_config(sequence)
    with pytest.raises(
        UserError, match=r"b2\.yaml is a conf of another kind; expected a sequence model's conf, such as"
    ):
        load_sequence_config(classifier)


def test_missing_files_and_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; expected a classifier's conf, such as"):
        load_config(tmp_path / "none.yaml")
    alone = tmp_path / "alone.yaml"
    alone.write_text("image_size: 64\n")
    with pytest.raises(UserError, match="key network is missing"):
        load_config(alone)
    alone.write_text("base: alone.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(alone)
    alone.write_text("- a list\n")
    with pytest.raises(UserError, match="found list"):
        load_config(alone)


def test_changed_keys(conf: Path) -> None:
    before = dump_config(load_config(conf))

    def changed(dumped: str, *overrides: str) -> list[str]:
        saved = conf.with_name("conf.yaml")
        saved.write_text(dumped)
        return changed_keys(load_config(conf, list(overrides)), saved)

    assert changed(before) == []
    # of another version: a key that came since had its default, one that is gone did something
    assert changed(before.replace("ema_decay: null\n", "")) == []
    assert changed(before.replace("ema_decay: null\n", ""), "ema_decay=0.9") == ["ema_decay"]
    assert changed(before.replace("seed: 0", "gone: 1")) == ["gone", "seed"]
    betas = "optimizer.arguments={betas: [0.8, 0.9]}"
    assert changed(before, betas) == ["optimizer.arguments.betas"]
    assert changed(dump_config(load_config(conf, [betas]))) == ["optimizer.arguments.betas"]
    assert changed(before, "optimizer.lr=1", "seed=7") == ["optimizer.lr", "seed"]
    with pytest.raises(UserError, match=r"conf.yaml: expected `key: value` lines, found list"):
        changed("- 1")


def test_every_key_is_explained_in_the_base(repository: Path) -> None:
    text = (repository / "conf/base.yaml").read_text()
    config = load_config(repository / "conf/se_resnext50_32x4d.yaml").model_dump()
    for key, value in config.items():
        for name in [key, *(value if isinstance(value, dict) else [])]:
            assert name == "name" or f"{name}:" in text, name


def test_the_learning_rate_rises_and_falls() -> None:
    conf = SchedulerConf(warmup_steps=3, milestones=(1, 2), gamma=0.5)
    factors = [conf.factor(step, steps_per_epoch=5) for step in range(15)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, *[0.5] * 5, *[0.25] * 5])
    assert SchedulerConf(milestones=(), gamma=0.5).factor(0, 1) == 1


def _shipped(repository: Path) -> list[Path]:
    return [path for path in sorted((repository / "conf").rglob("*.yaml")) if path.name != "base.yaml"]


def test_a_dumped_conf_loads_again_as_it_was(repository: Path, tmp_path: Path) -> None:
    paths = _shipped(repository)
    assert len(paths) >= 9
    for path in paths:
        load = load_sequence_config if "sequence" in path.parts else load_config
        config = load(path, ["seed=7"])
        dumped = tmp_path / "conf.yaml"
        dumped.write_text(dump_config(config))
        again = load(dumped)  # type: ignore[operator]
        assert again == config
        assert again.name == path.stem
        assert dump_config(again) == dump_config(config)
        assert load(dumped, ["seed=8"]).seed == 8  # type: ignore[operator]


def test_a_conf_that_is_not_resolved_has_no_name_of_its_own(repository: Path, conf: Path, tmp_path: Path) -> None:
    conf.write_text(conf.read_text() + "name: other\n")
    with pytest.raises(UserError, match="unknown key name; a conf's name is its file's"):
        load_config(conf)
    dumped = tmp_path / "conf.yaml"
    text = dump_config(load_config(repository / "conf/efficientnet-b2.yaml"))
    dumped.write_text("\n".join(line for line in text.splitlines() if not line.startswith("epochs:")))
    with pytest.raises(UserError, match="unknown key name; a conf's name is its file's"):
        load_config(dumped)
