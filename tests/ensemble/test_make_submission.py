"""The command: what it makes, writes, says and refuses."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.ensemble.consistent import make_consistent
from src.ensemble.make import beside
from src.evaluate.score import weighted_log_loss
from src.files.layout import Layout
from src.files.predictions import read_predictions, read_provenance, write_predictions
from src.labels import LABELS
from tests.ensemble.conftest import CONFS, EPOCHS, Refused, Run, making, prediction_files, provenance_of


def test_simple_bagging(own: Path, run: Run) -> None:
    result = run(*making(own))
    assert result.returncode == 0, result.stderr
    mean = sum(pd.read_parquet(file).set_index("ID").astype(float) for file in prediction_files(own, "test")) / 20
    found = pd.read_csv(own / "submission/submission.csv").set_index("ID")["Label"]
    for label in LABELS:
        np.testing.assert_allclose(found[[f"{each}_{label}" for each in mean.index]], mean[label], rtol=1e-6)

    manifest = json.loads((own / "submission/manifest.json").read_text())
    assert manifest["recipe"] == {"blend": "mean", "smooth_mm": 0.0, "calibrate": "none", "consistent": False}
    assert manifest["numbers"]["weights"] == {f"{c} epoch {e}": 0.25 for c in CONFS for e in EPOCHS}
    assert manifest["clip"] == 1e-6
    assert manifest["filled"] == {"mean of its series' neighbours": 1}
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)]
    for each, path in zip(manifest["predictions"], prediction_files(own, "test"), strict=True):
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


def test_a_bag_that_is_worse_than_the_constant_prior_is_told_in_a_sentence(own: Path, run: Run) -> None:
    said = "\nThis is worse than no network: its loss is "
    result = run(*making(own))
    scores = json.loads((own / "submission/manifest.json").read_text())["out_of_fold"]
    assert (said in result.stdout) == (scores["bag"]["weighted"] >= scores["constant prior"]["weighted"])
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)]
    for right in (True, False):
        for path in map(Path, prediction_files(own, "valid")):
            ids, provenance = read_predictions(path).ids, read_provenance(path)
            of = targets.loc[ids].to_numpy()
            write_predictions(path, ids, 0.2 + 0.6 * (of if right else 1 - of), provenance)
        assert (said in run(*making(own)).stdout) != right


def test_a_member_that_is_better_alone_is_named(own: Path, run: Run) -> None:
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)]
    for path in Layout(own).fold("y", 0).path.parent.glob("fold*/valid_epoch2.parquet"):
        ids, provenance = read_predictions(path).ids, read_provenance(path)
        write_predictions(path, ids, 0.01 + 0.98 * targets.loc[ids].to_numpy(), provenance)
    said = "\ny epoch 2 alone would have scored better; --blend weights (BLEND=weights) lets members weigh unequally\n"
    assert said in run(*making(own)).stdout
    assert said not in run(*making(own, "--blend", "weights")).stdout  # which knows


RECIPES = [
    [],
    ["--blend", "logit-mean", "--smooth", "5"],
    ["--blend", "weights", "--smooth", "auto", "--calibrate", "temperature"],
    ["--calibrate", "isotonic"],
    ["--calibrate", "platt", "--consistent"],
]


@pytest.mark.parametrize("recipe", RECIPES, ids=" ".join)
def test_the_manifest_makes_the_same_bytes(own: Path, run: Run, recipe: list[str]) -> None:
    made = run(*making(own, *recipe))
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
    if "platt" in recipe:
        assert "slopes any " in made.stdout
        assert "intercepts any " in made.stdout
    (own / "submission/submission.csv").unlink()
    rebuilt = run("--rebuild", str(own / "submission/manifest.json"))
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert {path.name: path.read_bytes() for path in (own / "submission").iterdir()} == files
    assert run("--rebuild", str(own / "submission/manifest.json"), "--output", str(own / "o/b.csv")).returncode == 0
    assert (own / "o/b.csv").read_bytes() == files["submission.csv"]


def test_a_consistent_submission(own: Path, run: Run) -> None:
    result = run(*making(own, "--consistent"))
    assert result.returncode == 0, result.stderr
    mean = sum(pd.read_parquet(file).set_index("ID").astype(float) for file in prediction_files(own, "test")) / 20
    found = pd.read_csv(own / "submission/submission.csv").set_index("ID")["Label"]
    columns = [found[[f"{each}_{label}" for each in mean.index]].to_numpy() for label in LABELS]
    assert all((columns[0] >= each).all() for each in columns[1:])
    np.testing.assert_allclose(np.stack(columns, axis=1), make_consistent(mean[list(LABELS)].to_numpy()), rtol=1e-6)
    every = found.index.str.rsplit("_", n=1).str[0].unique()  # rejected slices, which are filled, too
    assert len(every) == len(mean) + 1
    assert all((found[f"{each}_any"] >= found[[f"{each}_{label}" for label in LABELS]]).all() for each in every)

    bagged = pd.read_parquet(own / "submission/out_of_fold.parquet")
    assert (bagged["any"] >= bagged[list(LABELS)].max(axis=1)).all()
    manifest = json.loads((own / "submission/manifest.json").read_text())
    assert manifest["recipe"]["consistent"] is True
    scores = manifest["out_of_fold"]
    targets = pd.read_parquet(own / "cache/train.parquet").set_index("ID")[list(LABELS)].loc[bagged["ID"]].to_numpy()
    expected = weighted_log_loss(targets, bagged[list(LABELS)].to_numpy())
    assert scores["mean, consistent"]["weighted"] == pytest.approx(expected, rel=1e-6)
    assert scores["mean, consistent"]["weighted"] < scores["bag"]["weighted"]


def test_a_manifest_of_an_earlier_version_makes_its_bytes(own: Path, run: Run) -> None:
    assert run(*making(own)).returncode == 0
    manifest = own / "submission/manifest.json"
    before, record = (own / "submission/submission.csv").read_bytes(), json.loads(manifest.read_text())
    del record["recipe"]["consistent"], record["checksum"]
    manifest.write_text(json.dumps(record))
    (own / "submission/submission.csv").unlink()
    result = run("--rebuild", str(manifest))
    assert result.returncode == 0, result.stderr
    assert (own / "submission/submission.csv").read_bytes() == before


def test_what_changed_since_the_manifest_is_named(own: Path, run: Run, refused: Refused) -> None:
    assert run(*making(own)).returncode == 0
    manifest = own / "submission/manifest.json"
    said = json.loads(manifest.read_text())
    del said["checksum"]  # as in one of an earlier version
    wrong = manifest.with_name("wrong.json")
    wrong.write_text(json.dumps({**said, "submission": {**said["submission"], "sha256": "0" * 64}}))
    before = (own / "submission/submission.csv").read_bytes()
    refused(["--rebuild", str(wrong), "--output", str(own / "again.csv")], "no longer give the same bytes")
    assert not (own / "again.csv").exists()
    victim = Path(prediction_files(own, "test")[0])
    shutil.copy(prediction_files(own, "test")[1], victim)
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
    assert run(*making(own)).returncode == 0
    assert run(*making(own, out_of_fold=False)).returncode == 0
    assert not (own / "submission/out_of_fold.parquet").exists()
    assert json.loads((own / "submission/manifest.json").read_text())["out_of_fold"] is None


def test_checking_and_scoring(own: Path, run: Run, refused: Refused) -> None:
    assert run(*making(own)).returncode == 0
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
    submission.write_text("".join([*lines[:5], f"{lines[5].split(',')[0]},0.123456\n", *lines[6:]]))
    # as the manifest beside it says
    refused(["--check", str(submission), "--sample", sample], "is damaged or was changed", step="ensemble")
    submission.with_name("manifest.json").unlink()
    submission.write_text("".join([*lines[:5], *lines[6:]]))
    refused(["--check", str(submission), "--sample", sample], "lacks 1 rows of the sample submission")
    refused(["--check", str(own / "x.csv"), "--sample", sample], "x.csv is missing")
    refused(["--check", str(submission)], "--check needs --sample")


def test_mistakes_are_named(own: Path, run: Run, refused: Refused) -> None:
    given = making(own, out_of_fold=False)
    without_root = [each for each in given if each not in ("--root", str(own))]
    refused([*given, "--blend", "weights"], "weights: its numbers come from out-of-fold predictions")
    refused([*without_root, "--smooth", "5"], "give --root")
    refused([*without_root, "--out-of-fold", prediction_files(own, "valid")[0]], "give --root")
    refused([*given, "--smooth", "-1"], "--smooth: -1: expected millimetres")
    refused([*given, "--smooth", "x"], "--smooth: x: expected millimetres")
    refused(["--check", "x.csv", "--sample", "y.csv", "--blend", "weights"], "--blend goes with --predictions")
    refused(["--rebuild", "x.json", "--consistent"], "--consistent goes with --predictions")
    refused(["--rebuild", "x.json", "--smooth", "5"], "--smooth goes with --predictions")
    sample = given[given.index("--sample") + 1]
    refused([*given, "--output", sample], "is one of the inputs; expected another place for the submission")
    refused([*given, "--check", "x.csv"], "expected one of --predictions, --confs, --rebuild, --check, found")
    refused([], "found none")
    refused([*given, "--truth", "x.csv"], "--truth goes with --check")
    refused([*given[:-4]], "--predictions needs --output")
    only_x = [path for path in prediction_files(own, "valid") if "/x/" in path]
    refused([*given, "--calibrate", "temperature", "--out-of-fold", *only_x], "only one of the two has y epoch 2, y")
    one_fold = [path for path in prediction_files(own, "valid") if "fold0" in path]
    advice = "or take what fits nothing: --blend mean, --calibrate none and a --smooth in mm"
    refused([*given, "--blend", "weights", "--out-of-fold", *one_fold], "but fold 0 alone is predicted", advice)
    assert run(*given, "--out-of-fold", *one_fold).returncode == 0  # the plain bag of one fold
    wrong = run(*given, "--blend", "weights")
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (2, 1)
    retrained = own / "model/y/fold4/valid_epoch3.parquet"
    frame = pd.read_parquet(retrained)
    other = provenance_of("y", 4, 3, "valid", checkpoint="another")
    write_predictions(retrained, frame["ID"], frame[list(LABELS)].to_numpy(), other)
    refused([*given, "--out-of-fold", str(retrained)], "are by other weights or in other views", step="predict")
    retrained.unlink()
    moved = own / "model/x/fold0/valid_epoch2.parquet"
    shutil.copy(own / "model/x/fold1/valid_epoch2.parquet", moved)
    frame = pd.read_parquet(moved)
    write_predictions(moved, frame["ID"], frame[list(LABELS)].to_numpy(), provenance_of("x", 0, 2, "valid"))
    trained_on = "are not in fold 0, so its network was trained on them"
    refused([*given, "--out-of-fold", str(moved)], trained_on, step="train")
