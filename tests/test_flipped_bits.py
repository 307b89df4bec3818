"""A flipped bit in any file that the pipeline writes: what reads it names the file, or ends in the same bytes."""

import io
import random
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from src import errors
from src.classify.predictor import Predictor
from src.detector import Detector
from src.errors import Stopped
from src.files.layout import Layout
from src.train import trainer

CONF = Path("conf/se_resnext50_32x4d.yaml")
NAME, FOLD = CONF.stem, 0
QUICK = ["network.architecture=timm/test_efficientnet", "network.pretrained=none", "image_size=32", "batch_size=4"]
QUICK += ["workers=0", "optimizer.lr=1e-3", "epochs=2", "augment=[]"]
SEQUENCE = ["batch_size=2", "epochs=1", "model.width=8", "scheduler.warmup_steps=0"]
RANDOM_PLACES = 2

Command = Sequence[object]


def commands(root: Path) -> dict[str, Command]:
    """The commands of the pipeline on a root, each with what stands before its arguments."""
    layout = Layout(root)
    table, store, sample = layout.table("train"), layout.store("train"), root / "input/stage_2_sample_submission.csv"
    fold = ("--fold", FOLD, "--root", root)
    sequence = ("conf/sequence/gru.yaml", "--classifier", CONF, "--epoch", 2, *fold)
    making = ("src.ensemble.make_submission", "--sample", sample)
    predictions = ["--predictions", *sorted(root.glob(f"model/{NAME}+gru/fold0/test_*.parquet"))]
    held_out = ["--out-of-fold", *sorted(root.glob(f"model/{NAME}+gru/fold0/valid_*.parquet"))]
    return {
        "create": ("src.preprocess.create_dataset", "--table", table, "--output", store, "--engine", "serial"),
        "verify": ("src.preprocess.create_dataset", "--verify", "--output", store, "--engine", "serial"),
        "folds": ("src.preprocess.make_folds", "--table", table, "--store", store, "--output", layout.folds),
        "audit": ("src.preprocess.audit", "--root", root),
        "train": ("src.classify.train", CONF, *fold, "--set", *QUICK),
        "look": ("src.classify.train", CONF, *fold, "--dry-run", "--set", *QUICK),
        "predict": ("src.classify.predict", CONF, *fold, "--split", "valid", "--epochs", 2, "--set", *QUICK),
        "embed": ("src.sequence.embed", CONF, *fold, "--epoch", 2, "--pca", 4, "--set", *QUICK),
        "sequence": ("src.sequence.train", *sequence, "--set", *SEQUENCE),
        "predict sequence": ("src.sequence.predict", *sequence, "--split", "valid", "test", "--set", *SEQUENCE),
        "ensemble": (*making, *predictions, *held_out, "--root", root, "--output", layout.submission),
        "check": (*making, "--check", layout.submission),
        "summary": (
            "src.evaluate.summary",
            layout.submission.with_name("out_of_fold.parquet"),
            "--root",
            root,
        ),
        "export": ("src.detector.export", "--root", root),
    }


def run(command: Command) -> tuple[int, str]:
    """A command in this process: (exit status, the last line on stderr)."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    before, sys.argv, told = sys.argv, list(map(str, command)), io.StringIO()
    try:
        with pytest.raises(SystemExit) as ended, redirect_stderr(told), redirect_stdout(io.StringIO()):
            errors.run_command(import_module(sys.argv[0]).main)
    finally:
        sys.argv = before
    return int(ended.value.code or 0), (told.getvalue().splitlines() or [""])[-1]


def _load_detector(root: Path) -> tuple[int, str]:
    """What a command that uses a detector does first."""
    told = io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stderr(told):
        errors.run_command(lambda: Detector.load(Layout(root).detector) and None)
    return int(ended.value.code or 0), told.getvalue().strip()


@pytest.fixture(scope="module")
def stages(preprocessed: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root for each stage of a small pipeline, as it was when that stage ended or was stopped."""
    folder = tmp_path_factory.mktemp("stages")
    root = folder / "now"
    shutil.copytree(preprocessed.root, root)

    def keep(stage: str, *done: str, status: int = 0) -> None:
        for name in done:
            assert run(commands(root)[name])[0] == status, (name, run(commands(root)[name]))
        shutil.copytree(root, folder / stage)

    with pytest.MonkeyPatch.context() as patch:
        keep("preprocessed")
        patch.setattr(trainer._Training, "_finish_epoch", _stopping(trainer._Training._finish_epoch))
        keep("half trained", "train", status=75)
        patch.undo()
        keep("trained", "train")
        patch.setattr(Predictor, "outputs", _first_batch(Predictor.outputs))
        keep("half predicted", "predict", status=75)
        patch.undo()
        keep("predicted", "predict")
        patch.setattr(Predictor, "fill", _stopping(Predictor.fill))
        keep("half embedded", "embed", status=75)
        patch.undo()
        keep("embedded", "embed")
        keep("sequence", "sequence")
        keep("submitted", "predict sequence", "ensemble")
        keep("exported", "export")
    return folder


def _stopping(function: Any) -> Any:
    def stopping(*arguments: Any) -> None:
        function(*arguments)
        raise Stopped("here")

    return stopping


def _first_batch(outputs: Any) -> Any:
    def first_batch(*arguments: Any, **more: Any) -> Any:
        yield next(iter(outputs(*arguments, **more)))
        raise Stopped("here")

    return first_batch


class Kind(NamedTuple):
    """A kind of file: the stage at whose end it is there, one of its kind, the commands that read it, and how often.

    A file that is made anew costs more time than one that is refused.
    """

    stage: str
    pattern: str
    readers: tuple[str, ...]
    places: int = 100


CLASSIFIER, SECOND = f"model/{NAME}/fold0", f"model/{NAME}+gru/fold0"
KINDS = [
    Kind("preprocessed", "cache/train.parquet", ("create", "audit")),
    Kind("preprocessed", "cache/folds.parquet", ("look", "audit")),
    Kind("preprocessed", "cache/train/index.parquet", ("folds", "look")),
    Kind("preprocessed", "cache/train/*.b2nd", ("create", "verify")),
    Kind("preprocessed", "cache/train/rejected.csv", ("folds", "audit", "verify", "create")),
    Kind("preprocessed", "cache/train/store.json", ("look", "create")),
    Kind("half trained", f"{CLASSIFIER}/epoch1.safetensors", ("train",)),
    Kind("half trained", f"{CLASSIFIER}/state.pt", ("train",)),
    Kind("half trained", f"{CLASSIFIER}/conf.yaml", ("train",)),
    Kind("half trained", f"{CLASSIFIER}/versions.yaml", ("train",)),
    Kind("trained", f"{CLASSIFIER}/epoch2.safetensors", ("predict",)),
    Kind("half predicted", f"{CLASSIFIER}/partial_predictions/*.npz", ("predict",), 2),
    Kind("predicted", f"{CLASSIFIER}/valid_epoch2.parquet", ("predict",), 2),
    Kind("half embedded", f"{CLASSIFIER}/embeddings_epoch2_pca.npz", ("embed",), 1),
    Kind("half embedded", f"{CLASSIFIER}/embeddings_train_epoch2.npy", ("embed",), 1),
    Kind("embedded", f"{CLASSIFIER}/embeddings_train_epoch2.npy", ("sequence",)),
    Kind("embedded", f"{CLASSIFIER}/embeddings_train_epoch2.json", ("sequence",)),
    Kind("sequence", f"{CLASSIFIER}/embeddings_test_epoch2.npy", ("predict sequence",)),
    Kind("sequence", f"{SECOND}/epoch1.safetensors", ("predict sequence",)),
    Kind("submitted", f"{SECOND}/valid_epoch1.parquet", ("ensemble",)),
    Kind("submitted", f"{SECOND}/test_epoch1.parquet", ("ensemble",)),
    Kind("submitted", "submission/submission.csv", ("check",)),
    Kind("submitted", "submission/manifest.json", ("check", "export")),
    Kind("submitted", "submission/out_of_fold.parquet", ("summary", "export")),
    Kind("submitted", "cache/test/rejected.csv", ("ensemble",)),
    Kind("submitted", f"{CLASSIFIER}/conf.yaml", ("export",)),
    Kind("submitted", f"{SECOND}/conf.yaml", ("export",)),
    Kind("submitted", f"{CLASSIFIER}/epoch2.safetensors", ("export",)),
    Kind("submitted", f"{CLASSIFIER}/embeddings_epoch2_pca.npz", ("export",)),
    Kind("exported", "model/detector/detector.json", ("load",)),
    Kind("exported", "model/detector/weights/*.safetensors", ("load",)),
    Kind("exported", "model/detector/MODEL_CARD.md", ("load",)),
]


EXPECTED: dict[tuple[str, str], dict[Path, bytes]] = {}  # of a stage and a command, without a flip


@pytest.mark.parametrize(("kind", "reader"), [(kind, reader) for kind in KINDS for reader in kind.readers])
def test_a_flipped_bit_is_named_or_harmless(stages: Path, kind: Kind, reader: str) -> None:
    root = stages / "now"  # of the same name as it was made under, which some files hold

    def begin() -> Path:
        shutil.rmtree(root)
        shutil.copytree(stages / kind.stage, root)
        return sorted(root.glob(kind.pattern))[0]

    def end() -> tuple[int, str]:
        return _load_detector(root) if reader == "load" else run(commands(root)[reader])

    path = begin()
    if (kind.stage, reader) not in EXPECTED:
        status, line = end()
        assert status == 0, line
        EXPECTED[kind.stage, reader] = _outputs(root)
        begin()
    expected, whole = EXPECTED[kind.stage, reader], path.read_bytes()
    for at, bit in _places(whole, f"{kind.pattern} {reader}")[: kind.places]:
        changed = bytearray(whole)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        status, line = end()
        if status:
            assert (status, path.name in line) == (2, True), (at, bit, line)
            continue
        found = _outputs(root)
        if found.get(path) == bytes(changed):  # it is as it was, and nothing came of it
            found[path] = expected[path]
        differing = [str(each) for each in expected.keys() | found.keys() if expected.get(each) != found.get(each)]
        assert not differing, (at, bit, chr(whole[at]), chr(changed[at]), differing)
        begin()


def _places(whole: bytes, seed: str) -> list[tuple[int, int]]:
    """The first, the middle and the last byte of a file and some others, and a bit of each."""
    rng = random.Random(seed)  # noqa: S311 - places, not secrets
    places = [len(whole) // 2, 0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(RANDOM_PLACES))]
    flips = [(at, rng.randrange(8)) for at in places]
    if whole.isascii():  # a text, which stays one where a digit becomes another
        digits = [at for at, byte in enumerate(whole) if chr(byte).isdigit()]
        flips = [(at, 0) for at in (digits[-1], *rng.choices(digits, k=3))] + flips if digits else flips
    return flips


def _outputs(root: Path) -> dict[Path, bytes]:
    """All files of a root but its inputs, and those that hold times."""
    return {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and path.relative_to(root).parts[0] != "input"
        and path.name != "metrics.csv"
        and path.parent.name not in ("curves", "timing")
    }
