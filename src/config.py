"""The YAML files in conf/, one per classifier or sequence model: a base and changes to it. Unknown keys are errors."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from src.config_errors import explain
from src.documents import MOST_YAML_BYTES, parse_yaml, read_text
from src.errors import UserError, shortened
from src.labels import LABELS


def _number(value: Any) -> Any:
    # YAML reads yes and on as booleans, which pydantic would accept as 1, and 1e-4 as text
    if isinstance(value, bool):
        raise ValueError("expected neither true nor false")
    if isinstance(value, str) and _QUOTED.fullmatch(value):
        raise ValueError("expected a number, without quotes")
    return value


_QUOTED = re.compile(r"\s*[-+]?(\d+|\d*\.\d+|\d+\.\d*)\s*", re.ASCII)
# not pydantic's strict numbers, which would refuse 1e-4
_Int = Annotated[int, BeforeValidator(_number)]
_Float = Annotated[float, BeforeValidator(_number)]
_Text = Annotated[str, Field(max_length=200)]
_Path = Annotated[str, Field(max_length=4096)]
_MOST_STEPS = 10**9


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NetworkConf(_Section):
    """The network and its initial weights."""

    architecture: _Text
    pretrained: _Path = "imagenet"  # imagenet, none, the path of a file with weights, or in-order: and a path
    dropout: _Float | None = Field(default=None, ge=0, lt=1)  # None: the architecture's default; also for drop_path
    drop_path: _Float | None = Field(default=None, ge=0, lt=1)
    reestimate_batch_norm: StrictBool = False


class WindowConf(_Section):
    """A display window in HU: `[level - width / 2, level + width / 2]` is shown from black to white."""

    level: _Float = Field(ge=-65536, le=65536)
    width: _Float = Field(gt=0, le=65536)


class WindowJitterConf(_Section):
    """Uniform random changes of the windows in training: levels by +-level HU, widths by the fraction +-width."""

    level: _Float = Field(ge=0, le=65536)
    width: _Float = Field(ge=0, lt=1)


class TransformConf(BaseModel):
    """One albumentations transform by name; the other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: _Text

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the transform."""
        return dict(self.model_extra or {})


class IdentityView(_Section):
    """A slice without change."""

    name: Literal["Identity"]


class FlippedView(_Section):
    """A slice with left and right swapped."""

    name: Literal["HorizontalFlip"]


class RotatedView(_Section):
    """A slice rotated counter-clockwise about its centre."""

    name: Literal["Rotate"]
    degrees: _Float = Field(ge=-45, le=45)


class ScaledView(_Section):
    """A slice enlarged (factor above 1) or shrunk about its centre."""

    name: Literal["Scale"]
    factor: _Float = Field(ge=0.5, le=2)


ViewConf = Annotated[IdentityView | FlippedView | RotatedView | ScaledView, Field(discriminator="name")]


class OptimizerConf(_Section):
    """An optimiser of torch or apex for all weights. src/train/optim.py lists them."""

    name: _Text
    lr: _Float = Field(gt=0, le=1000)
    weight_decay: _Float = Field(default=0, ge=0, le=1000)
    arguments: dict[str, Any] = {}  # further arguments of the optimiser
    clip_norm: _Float | None = Field(default=None, gt=0, le=1e9)  # None: gradients are not clipped

    @field_validator("arguments")
    @classmethod
    def _refuse_second_homes(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        doubled = [key for key in ("lr", "weight_decay") if key in arguments]
        if doubled:
            raise ValueError(f"{doubled[0]} has its place in optimizer itself")
        return arguments


class SchedulerConf(_Section):
    """Linear warm-up of the learning rate, which is then multiplied by `gamma` after each epoch in `milestones`."""

    warmup_steps: _Int = Field(default=0, ge=0, le=_MOST_STEPS)
    milestones: tuple[Annotated[_Int, Field(ge=0, le=_MOST_STEPS)], ...] = Field(max_length=100)
    gamma: _Float = Field(gt=0, le=10)

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """The factor of the learning rate at a step, counted from 0 over all epochs."""
        finished = step // steps_per_epoch
        falls = sum(finished >= milestone for milestone in self.milestones)
        return self.gamma**falls * min(1.0, (step + 1) / (self.warmup_steps + 1))


class TrainingConf(_Section):
    """The settings of any training: of a classifier, or of a sequence model over its slices."""

    name: str  # that of the file
    label_weights: dict[str, Annotated[_Float, Field(ge=0, le=1e6)]]
    optimizer: OptimizerConf
    scheduler: SchedulerConf
    ema_decay: _Float | None = Field(default=None, gt=0, lt=1)  # None: no averaging
    epochs: _Int = Field(ge=1, le=10_000)
    batch_size: _Int = Field(ge=2, le=1 << 16)
    accumulate: _Int = Field(default=1, ge=1, le=1 << 16)
    precision: Literal["fp16", "bf16", "none"]
    compile: StrictBool = False
    workers: _Int = Field(ge=0, le=1024)
    save_steps: _Int = Field(ge=0, le=_MOST_STEPS)
    seed: _Int = Field(ge=0, le=2**63 - 1)

    @field_validator("label_weights")
    @classmethod
    def _weigh_every_label(cls, weights: dict[str, float]) -> dict[str, float]:
        if set(weights) != set(LABELS) or not any(weights.values()):
            raise ValueError(f"expected a weight for each of {', '.join(LABELS)}, not all of them 0")
        return {label: weights[label] for label in LABELS}


class Config(TrainingConf):
    """All settings of a classifier. conf/base.yaml explains each key."""

    WHAT: ClassVar[str] = "a classifier's conf, such as conf/efficientnet-b2.yaml"
    network: NetworkConf
    image_size: _Int = Field(ge=32, le=4096)
    neighbours: _Int = Field(default=0, ge=0, le=50)
    windows: tuple[WindowConf, ...] = Field(min_length=1, max_length=64)
    window_jitter: WindowJitterConf
    augment: tuple[TransformConf, ...] = Field(max_length=100)
    channels_last: StrictBool = True
    tta: tuple[ViewConf, ...] = Field(default=(IdentityView(name="Identity"),), min_length=1, max_length=64)


class RecurrentConf(_Section):
    """A recurrent network that reads a series in both directions."""

    name: Literal["GRU", "LSTM"]
    width: _Int = Field(ge=1, le=1 << 14)  # of the hidden state of each direction
    layers: _Int = Field(ge=1, le=100)


class TransformerConf(_Section):
    """A transformer encoder whose heads pay less attention to slices that are more millimetres away."""

    name: Literal["Transformer"]
    width: _Int = Field(ge=1, le=1 << 14)
    layers: _Int = Field(ge=1, le=100)
    heads: _Int = Field(ge=1, le=1 << 14)

    @model_validator(mode="after")
    def _share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"expected a width that {self.heads} heads can share")
        return self


class SequenceConfig(TrainingConf):
    """All settings of a sequence model. conf/sequence/base.yaml explains each key."""

    WHAT: ClassVar[str] = "a sequence model's conf, such as conf/sequence/gru.yaml"
    model: Annotated[RecurrentConf | TransformerConf, Field(discriminator="name")]
    dropout: _Float = Field(ge=0, lt=1)
    embedding_dropout: _Float = Field(ge=0, lt=1)
    logit_dropout: _Float = Field(ge=0, le=1)
    logit_noise: _Float = Field(ge=0, le=1e6)
    order: Literal["z", "shuffled"] = "z"


_Conf = TypeVar("_Conf", Config, SequenceConfig)
_KINDS = {"network": Config, "model": SequenceConfig}  # each by a key that only this kind of conf has


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a classifier's conf: its base, then its own values, then `key=value` overrides (`optimizer.lr=1e-4`).

    Dots in an override separate nested keys. A resolved conf, as `dump_config` writes it beside the weights, contains
    its name; every other conf is named after its file.

    Raises UserError naming the file, the key, and what was expected.
    """
    return _load(path, Config, overrides)


def load_sequence_config(path: Path, overrides: list[str] | None = None) -> SequenceConfig:
    """Read a sequence model's conf, like `load_config`."""
    return _load(path, SequenceConfig, overrides)


def _load(path: Path, kind: type[_Conf], overrides: list[str] | None) -> _Conf:
    values = _read_with_base(Path(path), kind.WHAT)
    resolved = "name" in values
    kinds = [other for key, other in _KINDS.items() if key in values]
    if kinds and kind not in kinds:
        raise UserError(f"{path} is a conf of another kind; expected {kind.WHAT}")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"override {shortened(override)}: expected key=value, for example optimizer.lr=1e-4")
        where = f"override {shortened(override)}"
        _assign(values, key.split("."), parse_yaml(text, where), where)
    if "name" not in values:
        values["name"] = Path(path).stem
    elif not (resolved and values.keys() >= kind.model_fields.keys()):
        raise UserError(f"{path}: unknown key name; a conf's name is its file's")
    return parse_config(values, kind, str(path))


def parse_config(values: Any, kind: type[_Conf], source: str) -> _Conf:
    """Make a conf from resolved values, as `dump_config` writes them. source: their origin. Raises UserError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, kind)}") from error


def dump_config(config: TrainingConf) -> str:
    """The resolved conf as YAML, which is saved beside the weights and can be loaded again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def changed_keys(config: TrainingConf, saved: Path, *, advice: str = "") -> list[str]:
    """The keys, nested ones with dots, that differ between a conf and a file of one that `dump_config` wrote before.

    A key that was added since counts as if it had its default then, because the default of a new key keeps the previous
    behaviour. A key that was removed since differs. advice: what to do about a file that holds no conf, for
    which UserError is raised.
    """
    values = parse_yaml(read_text(saved, MOST_YAML_BYTES, advice=advice), str(saved), advice=advice)
    if not isinstance(values, dict):
        raise UserError(f"{saved}: expected `key: value` lines, found {type(values).__name__}{advice}")
    before, now = _flatten(values), _flatten(config.model_dump(mode="json"))
    gone = before.keys() - now.keys()
    before = _flatten(_defaults(type(config))) | before
    return sorted(gone | {key for key in now if key not in before or before[key] != now[key]})


def _read_with_base(path: Path, what: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; expected {what}")
    if path.resolve() in seen:
        raise UserError(f"{path}: its base leads back to itself")
    values = parse_yaml(read_text(path, MOST_YAML_BYTES), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if "name" in values:
        raise UserError(f"{path}: unknown key name; a conf's name is its file's")
    return _merge(_read_with_base(path.parent / str(base), what, (*seen, path.resolve())), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _assign(values: dict[str, Any], keys: list[str], value: Any, where: str) -> None:
    for depth, key in enumerate(keys[:-1], start=1):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"{where}: {'.'.join(keys[:depth])} holds a value, not further keys")
    values[keys[-1]] = value


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a section and of the sections nested in it."""
    values = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            values[name] = _defaults(field.annotation)
        elif not field.is_required():
            values[name] = field.default
    return values


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
