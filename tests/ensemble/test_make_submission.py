"""The command: what it makes, writes, says and refuses."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from src.ensemble.make import beside
from src.ensemble.make_submission import main
from src.errors import UserError
from src.evaluate.out_of_fold import read_truth
from src.evaluate.score import weighted_log_loss
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.predictions import read_predictions, read_provenance, write_predictions
from src.files.provenance import Provenance
from src.labels import LABELS

CONFS, EPOCHS, FOLDS = ("x", "y"), (2, 3), range(5)


def _provenance(conf: str, fold: int, epoch: int, split: str, **more: str) -> Provenance:
    usual = {"checkpoint": "c", "slices": "s", "tta": "Identity"}
    return Provenance(conf=conf, fold=fold, epoch=epoch, split=split, **(usual | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root(preprocessed: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with predictions of two classifiers that see the truth through noise."""
    root = tmp_path_factory.mktemp("predicted")
    for folder in ("cache", "input"):
        (root / folder).symlink_to(preprocessed.root / folder)
    layout, rng = Layout(root), np.random.default_rng(0)
    folds = pd.read_parquet(layout.folds).set_index("ID")["fold"]
    targets = pd.read_parquet(layout.table("train")).set_index("ID")[list(LABELS)]
    tested = ImageStore(layout.store("test")).index["ID"]
    for conf, noise in zip(CONFS, (1.0, 2.0), strict=True):
        for epoch in EPOCHS:
            for fold in FOLDS:
                ids = folds.index[folds == fold]
                seen = (targets.loc[ids].to_numpy() * 4.0 - 2) * 2 + noise * rng.normal(size=(len(ids), 6))
                for split, names, values in (
                    ("valid", ids, expit(seen)),
                    ("test", tested, rng.random((len(tested), 6))),
                ):
                    path = layout.fold(conf, fold).predictions(split, epoch)
                    write_predictions(path, names, values, _provenance(conf, fold, epoch, split))
    return root


@pytest.fixture
def own(root: Path, tmp_path: Path) -> Path:
    """The same, to write to."""
    shutil.copytree(root, tmp_path / "own", symlinks=True)
    return tmp_path / "own"


def _files(root: Path, split: str) -> list[str]:
    return sorted(map(str, root.glob(f"model/*/fold*/{split}_epoch*.parquet")))


def _making(root: Path, *more: str, out_of_fold: bool = True) -> list[str]:
    arguments = ["--predictions", *_files(root, "test"), "--sample", str(root / "input/stage_2_sample_submission.csv")]
    arguments += ["--output", str(root / "submission/submission.csv"), "--root", str(root), *more]
    return [*arguments, "--out-of-fold", *_files(root, "valid")] if out_of_fold else arguments


@pytest.fixture
def run(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "src.ensemble.make_submission", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True)

    return _run


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command in this process, which spares the start of another; it must end with a UserError of these words.

    step: that the error names, None for none.
    """

    def _refused(arguments: list[str], *expected: str, step: str | None = None) -> None:
        monkeypatch.setattr(sys, "argv", ["make_submission", *arguments])
        with pytest.raises(UserError) as error:
            main()
        for words in expected:
            assert words in str(error.value)
        assert error.value.step == step

    return _refused


Refused = Callable[..., None]


def test_simple_bagging(own: Path, run: Run) -> None:
    result = run(*_making(own))
    assert result.returncode == 0, result.stderr
    mean = sum(pd.read_parquet(file).set_index("ID").astype(float) for file in _files(own, "test")) / 20
    found = pd.read_csv(own / "submission/submission.csv").set_index("ID")["Label"]
    for label in LABELS:
        np.testing.assert_allclose(found[[f"{each}_{label}" for each in mean.index]], mean[label], rtol=1e-6)

    manifest = json.loads((own / "submission/manifest.json").read_text())
    assert manifest["recipe"] == {"blend": "mean", "smooth_mm": 0.0, "calibrate": "none"}
    assert manifest["numbers"]["weights"] == {f"{c} epoch {e}": 0.25 for c in CONFS for e in EPOCHS}
    assert manifest["clip"] == 1e-6
    assert manifest["filled"] == {"mean of its series' neighbours": 1}
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)]
    for each, path in zip(manifest["predictions"], _files(own, "test"), strict=True):
        assert (each["path"], each["sha256"]) == (path, hashlib.sha256(Path(path).read_bytes()).hexdigest())
        valid = pd.read_parquet(Path(path).with_name(f"valid_epoch{each['epoch']}.parquet")).set_index("ID")
        expected = weighted_log_loss(targets.loc[valid.index].to_numpy(), valid.to_numpy())
        assert each["out_of_fold_loss"] == pytest.approx(expected)
        assert f"{each['conf']}/fold{each['fold']}/test_epoch{each['epoch']}" in path

    bagged = pd.read_parquet(own / "submission/out_of_fold.parquet").set_index("ID")
    scores = manifest["out_of_fold"]
    assert list(scores) == [
        *(f"{conf} epoch {epoch}" for conf in CONFS for epoch in EPOCHS), "x", "y", "bag", "constant prior"
    ]  # fmt: skip
    expected = weighted_log_loss(targets.loc[bagged.index].to_numpy(), bagged.to_numpy())
    assert scores["bag"]["weighted"] == pytest.approx(expected, rel=1e-6)
    for name, row in scores.items():
        assert re.search(rf"^{name} +{row['weighted']:.4f} ", result.stdout, re.MULTILINE), name
    assert re.search(r"correlation of members, within labels\n +1 +2 +3 +4\n1 x epoch 2 +1\.000 ", result.stdout)
    better_alone = min(row["weighted"] for name, row in scores.items() if " epoch " in name) < scores["bag"]["weighted"]
    assert ("alone would have scored better" in result.stdout) == better_alone


def test_a_member_that_is_better_alone_is_named(own: Path, run: Run) -> None:
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)]
    for path in Layout(own).fold("y", 0).path.parent.glob("fold*/valid_epoch2.parquet"):
        ids, provenance = read_predictions(path).ids, read_provenance(path)
        write_predictions(path, ids, 0.01 + 0.98 * targets.loc[ids].to_numpy(), provenance)
    said = "\ny epoch 2 alone would have scored better; --blend weights (BLEND=weights) lets members weigh unequally\n"
    assert said in run(*_making(own)).stdout
    assert said not in run(*_making(own, "--blend", "weights")).stdout  # which knows


RECIPES = [
    [],
    ["--blend", "logit-mean", "--smooth", "5"],
    ["--blend", "weights", "--smooth", "auto", "--calibrate", "temperature"],
    ["--calibrate", "isotonic"],
]


@pytest.mark.parametrize("recipe", RECIPES, ids=" ".join)
def test_the_manifest_makes_the_same_bytes(own: Path, run: Run, recipe: list[str]) -> None:
    made = run(*_making(own, *recipe))
    assert made.returncode == 0, made.stderr
    files = {path.name: path.read_bytes() for path in (own / "submission").iterdir()}
    assert set(files) == {"submission.csv", "manifest.json", "out_of_fold.parquet"}
    manifest = json.loads(files["manifest.json"])
    if "weights" in recipe:
        weights = manifest["numbers"]["weights"]
        assert sum(weights.values()) == pytest.approx(1)
        assert weights["x epoch 2"] + weights["x epoch 3"] > weights["y epoch 2"] + weights["y epoch 3"]
        assert "weights, smooth auto, temperature" in manifest["out_of_fold"]
        assert "temperatures any " in made.stdout
    (own / "submission/submission.csv").unlink()
    rebuilt = run("--rebuild", str(own / "submission/manifest.json"))
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert {path.name: path.read_bytes() for path in (own / "submission").iterdir()} == files
    assert run("--rebuild", str(own / "submission/manifest.json"), "--output", str(own / "o/b.csv")).returncode == 0
    assert (own / "o/b.csv").read_bytes() == files["submission.csv"]


def test_what_changed_since_the_manifest_is_named(own: Path, run: Run, refused: Refused) -> None:
    assert run(*_making(own)).returncode == 0
    manifest = own / "submission/manifest.json"
    said = json.loads(manifest.read_text())
    wrong = manifest.with_name("wrong.json")
    wrong.write_text(json.dumps({**said, "submission": {**said["submission"], "sha256": "0" * 64}}))
    before = (own / "submission/submission.csv").read_bytes()
    refused(["--rebuild", str(wrong), "--output", str(own / "again.csv")], "no longer give the same bytes")
    assert not (own / "again.csv").exists()
    victim = Path(_files(own, "test")[0])
    shutil.copy(_files(own, "test")[1], victim)
    refused(["--rebuild", str(manifest)], f"{victim} has changed since")
    victim.unlink()
    refused(["--rebuild", str(manifest)], f"{victim} is missing")
    assert (own / "submission/submission.csv").read_bytes() == before
    wrong.write_text("{}")
    refused(["--rebuild", str(wrong)], "wrong.json is no manifest of a submission")
    wrong.write_text(json.dumps({**said, "format": 9}))
    refused(["--rebuild", str(wrong)], "is a manifest of format 9")
    refused(["--rebuild", str(own / "none.json")], "none.json is missing", step="ensemble")


def test_submissions_in_one_folder_keep_their_manifests() -> None:
    assert beside(Path("s/submission.csv"), "manifest.json") == Path("s/manifest.json")
    assert beside(Path("s/other.csv"), "manifest.json") == Path("s/other.manifest.json")


def test_out_of_fold_figures_of_an_earlier_submission_go(own: Path, run: Run) -> None:
    assert run(*_making(own)).returncode == 0
    assert run(*_making(own, out_of_fold=False)).returncode == 0
    assert not (own / "submission/out_of_fold.parquet").exists()
    assert json.loads((own / "submission/manifest.json").read_text())["out_of_fold"] is None


def test_checking_and_scoring(own: Path, run: Run, refused: Refused) -> None:
    assert run(*_making(own)).returncode == 0
    sample, truth = (str(own / f"input/stage_2_{name}.csv") for name in ("sample_submission", "test_truth"))
    submission = own / "submission/submission.csv"
    result = run("--check", str(submission), "--sample", sample, "--truth", truth)
    assert result.returncode == 0, result.stderr
    labels, found = (pd.read_csv(path).set_index("ID")["Label"] for path in (truth, submission))
    ids = found.index[found.index.str.endswith("_any")].str.removesuffix("any")
    grids = [np.stack([each[ids + label] for label in LABELS], axis=1) for each in (labels, found)]
    assert f"{weighted_log_loss(*grids):.4f}" in result.stdout.splitlines()[2]
    assert "average precision" in result.stdout
    lines = submission.read_text().splitlines(keepends=True)
    submission.write_text("".join([*lines[:5], *lines[6:]]))
    refused(["--check", str(submission), "--sample", sample], "lacks 1 rows of the sample submission")
    refused(["--check", str(own / "x.csv"), "--sample", sample], "x.csv is missing")
    refused(["--check", str(submission)], "--check needs --sample")


def test_mistakes_are_named(own: Path, run: Run, refused: Refused) -> None:
    making = _making(own, out_of_fold=False)
    without_root = [each for each in making if each not in ("--root", str(own))]
    refused([*making, "--blend", "weights"], "weights: its numbers come from out-of-fold predictions")
    refused([*without_root, "--smooth", "5"], "give --root")
    refused([*without_root, "--out-of-fold", _files(own, "valid")[0]], "give --root")
    refused([*making, "--smooth", "-1"], "--smooth: -1: expected millimetres")
    refused([*making, "--smooth", "x"], "--smooth: x: expected millimetres")
    refused(["--check", "x.csv", "--sample", "y.csv", "--blend", "weights"], "--blend goes with --predictions")
    refused(["--rebuild", "x.json", "--smooth", "5"], "--smooth goes with --predictions")
    sample = making[making.index("--sample") + 1]
    refused([*making, "--output", sample], "is one of the inputs; expected another place for the submission")
    refused([*making, "--check", "x.csv"], "expected one of --predictions, --confs, --rebuild, --check, found")
    refused([], "found none")
    refused([*making, "--truth", "x.csv"], "--truth goes with --check")
    refused([*making[:-4]], "--predictions needs --output")
    only_x = [path for path in _files(own, "valid") if "/x/" in path]
    refused([*making, "--calibrate", "temperature", "--out-of-fold", *only_x], "only one of the two has y epoch 2, y")
    one_fold = [path for path in _files(own, "valid") if "fold0" in path]
    advice = "or take what fits nothing: --blend mean, --calibrate none and a --smooth in mm"
    refused([*making, "--blend", "weights", "--out-of-fold", *one_fold], "but fold 0 alone is predicted", advice)
    assert run(*making, "--out-of-fold", *one_fold).returncode == 0  # the plain bag of one fold
    wrong = run(*making, "--blend", "weights")
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (2, 1)
    retrained = own / "model/y/fold4/valid_epoch3.parquet"
    frame = pd.read_parquet(retrained)
    other = _provenance("y", 4, 3, "valid", checkpoint="another")
    write_predictions(retrained, frame["ID"], frame[list(LABELS)].to_numpy(), other)
    refused([*making, "--out-of-fold", str(retrained)], "are by other weights or in other views", step="predict")
    retrained.unlink()
    moved = own / "model/x/fold0/valid_epoch2.parquet"
    shutil.copy(own / "model/x/fold1/valid_epoch2.parquet", moved)
    frame = pd.read_parquet(moved)
    write_predictions(moved, frame["ID"], frame[list(LABELS)].to_numpy(), _provenance("x", 0, 2, "valid"))
    trained_on = "are not in fold 0, so its network was trained on them"
    refused([*making, "--out-of-fold", str(moved)], trained_on, step="train")


def _of_run(root: Path, *more: str) -> list[str]:
    """Everything that the run has predicted, as bin/ensemble.sh asks for it."""
    arguments = ["--confs", "conf/x.yaml", "conf/y.yaml", "--sequences", "conf/sequence/gru.yaml", "--root", str(root)]
    arguments += ["--sample", str(root / "input/stage_2_sample_submission.csv")]
    return [*arguments, "--output", str(root / "submission/submission.csv"), *more]


def _second_stage(root: Path, folds: Iterable[int] = FOLDS) -> None:
    """Predictions of a sequence model over `x`: those of its epoch 3, under another name."""
    layout = Layout(root)
    for fold in folds:
        for split in ("valid", "test"):
            read = read_predictions(layout.fold("x", fold).predictions(split, 3))
            of = _provenance("x+gru", fold, 12, split, classifier_checkpoint="x")
            write_predictions(layout.fold("x+gru", fold).predictions(split, 12), read.ids, read.probabilities, of)


def _members(root: Path) -> list[str]:
    return list(json.loads((root / "submission/manifest.json").read_text())["numbers"]["weights"])


def test_all_of_a_run_is_what_its_files_make(own: Path, run: Run) -> None:
    assert run(*_making(own)).returncode == 0
    by_files = {path.name: path.read_bytes() for path in (own / "submission").iterdir()}
    result = run(*_of_run(own))
    assert (result.returncode, result.stderr) == (0, "")
    by_run = {path.name: path.read_bytes() for path in (own / "submission").iterdir()}
    manifests = [json.loads(files.pop("manifest.json")) for files in (by_files, by_run)]
    assert manifests[0]["out_of_fold"].keys() == manifests[1]["out_of_fold"].keys()
    paths = [{each["path"] for each in manifest["predictions"]} for manifest in manifests]
    assert paths[0] == paths[1] == set(_files(own, "test"))
    assert by_files == by_run


def test_the_last_stage_of_each_classifier_is_bagged(own: Path, run: Run) -> None:
    _second_stage(own)
    result = run(*_of_run(own))
    assert (result.returncode, result.stderr) == (0, "")
    assert _members(own) == ["x+gru epoch 12", "y epoch 2", "y epoch 3"]
    assert run(*_of_run(own, "--members", "cnn")).returncode == 0
    assert _members(own) == ["x epoch 2", "x epoch 3", "y epoch 2", "y epoch 3"]
    result = run(*_of_run(own, "--members", "sequence"))
    assert result.returncode == 0
    assert result.stderr == "bagging the 10 of 20 prediction files that exist\n"
    assert _members(own) == ["x+gru epoch 12"]
    assert run(*_of_run(own, "--members", "all")).returncode == 0
    assert _members(own) == ["x epoch 2", "x epoch 3", "x+gru epoch 12", "y epoch 2", "y epoch 3"]


def test_a_second_stage_that_is_not_complete_is_told(own: Path, run: Run) -> None:
    _second_stage(own, [0, 1])
    Layout(own).fold("y", 4).predictions("valid", 3).unlink()
    result = run(*_of_run(own))
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "bagging the 39 of 40 prediction files that exist",
        "x+gru has not predicted every fold: the classifier's own epochs take its place",
    ]
    assert _members(own) == ["x epoch 2", "x epoch 3", "y epoch 2", "y epoch 3"]


def test_mistakes_in_a_run_are_named(own: Path, run: Run, refused: Refused) -> None:
    nothing = "has no predictions of the test set by x, y, folds 0, 1, 2, 3, 4, "
    refused(_of_run(own, "--members", "sequence"), f"{nothing}gru", step="sequence")
    refused(_of_run(own, "--epochs", "7", "8"), f"{nothing}epoch 7, epoch 8", step="predict")
    refused([each for each in _of_run(own) if each not in ("--root", str(own))], "--confs needs --root")
    refused(_of_run(own, "--out-of-fold", _files(own, "valid")[0]), "finds out-of-fold files by itself")
    refused([*_making(own), "--members", "cnn"], "--members goes with --confs")
    refused([*_making(own), "--folds", "0"], "--folds goes with --confs")
    refused([*_of_run(own), "--check", "x.csv"], "found --confs and --check")
    result = run(*_of_run(own, "--members", "sequence"))
    assert result.returncode == 2
    assert result.stderr == f"error: {own}/model {nothing}gru; run sh bin/sequence.sh\n"


def test_a_stale_second_stage_is_refused(own: Path, run: Run, refused: Refused) -> None:
    _second_stage(own)
    checkpoint = Layout(own).fold("x", 2).checkpoint(3)
    checkpoint.write_bytes(b"trained again")
    refused(_of_run(own), "x+gru/fold2/test_epoch12.parquet is stale", step="sequence")
    assert not (own / "submission").exists()
    checkpoint.unlink()
    assert run(*_of_run(own)).returncode == 0


def test_the_bags_out_of_fold_file_records_the_folds(own: Path, run: Run) -> None:
    assert run(*_making(own)).returncode == 0
    bagged = read_predictions(own / "submission/out_of_fold.parquet")
    assert bagged.provenance is None
    assert bagged.folds == read_truth(Layout(own)).folds_fingerprint
