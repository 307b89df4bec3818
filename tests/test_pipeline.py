"""The real scripts end to end: on a tiny competition with both architectures, and on a real head CT as a test set."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.ct.series import Series
from src.detector import Detector
from src.ensemble.consistent import make_consistent
from src.ensemble.fill import FROM_NEIGHBOURS
from src.evaluate.score import weighted_log_loss
from src.files.checksum import file_sha256
from src.files.image_store import ImageStore
from src.files.predictions import read_predictions
from src.labels import LABELS, row_ids

CONFS = "tests/confs/se_resnext50_32x4d.yaml tests/confs/efficientnet-b2.yaml"
NAMES = ("se_resnext50_32x4d", "efficientnet-b2")
OVER = tuple(f"{name}+gru" for name in NAMES)
FOLDS = "0 3"
SCRIPTS = ("preprocess", "train", "predict", "sequence", "ensemble", "report", "export")


Script = Callable[..., str]


@pytest.fixture(scope="module")
def script(repository: Path, python: str) -> Script:
    """Run a script over a root folder, with variables, and return what it printed."""

    def _run(name: str, root: Path, **env: str) -> str:
        environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(root), "CONFS": CONFS, "FOLDS": FOLDS, **env}
        command = ["sh", str(repository / f"bin/{name}.sh")]
        # from another folder: the scripts must find their way
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return _run


@pytest.fixture(scope="module")
def sequences(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A conf of a sequence model for eight series."""
    conf = tmp_path_factory.mktemp("conf") / "gru.yaml"
    conf.write_text(f"base: {repository}/conf/demo/sequence/gru.yaml\nbatch_size: 2\nepochs: 2\n")
    return str(conf)


@pytest.fixture(scope="module")
def run(
    script: Script, competition: Path, sequences: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """All scripts over a tiny competition: (root, what each printed)."""
    root = tmp_path_factory.mktemp("a root with blanks")
    shutil.copytree(competition / "input", root / "input")
    return root, {name: script(name, root, SEQUENCES=sequences) for name in SCRIPTS}


def test_every_artefact_is_there(run: tuple[Path, dict[str, str]]) -> None:
    root, _ = run
    for table in ("train.parquet", "test.parquet", "folds.parquet", "train/index.parquet", "test/rejected.csv"):
        assert (root / "cache" / table).is_file(), table
    for name in NAMES:
        for fold in FOLDS.split():
            made = {path.name for path in (root / f"model/{name}/fold{fold}").iterdir()}
            assert made == {
                *(f"epoch{epoch}.safetensors" for epoch in (1, 2, 3)),
                *(f"{split}_epoch{epoch}.parquet" for split in ("valid", "test") for epoch in (2, 3)),
                *(f"embeddings_{split}_epoch3.{kind}" for split in ("train", "test") for kind in ("npy", "json")),
                "conf.yaml",
                "curves",
                "metrics.csv",
                "versions.yaml",
            }


def test_the_submission_is_the_mean_of_the_last_stage(run: tuple[Path, dict[str, str]]) -> None:
    root, printed = run
    sample = pd.read_csv(root / "input/stage_2_sample_submission.csv")
    submission = pd.read_csv(root / "submission/submission.csv")
    assert submission["ID"].tolist() == sample["ID"].tolist()
    assert submission["Label"].between(1e-6, 1 - 1e-6).all()

    files = sorted(root.glob("model/*+gru/fold*/test_epoch*.parquet"))  # each classifier's last stage
    assert len(files) == 4
    mean = sum(pd.read_parquet(file).set_index("ID").sort_index().astype(float) for file in files) / 4
    expected = pd.Series(make_consistent(mean[list(LABELS)].to_numpy()).ravel(), index=row_ids(pd.Series(mean.index)))
    found = submission.set_index("ID")["Label"]
    np.testing.assert_allclose(found[expected.index], expected.clip(1e-6, 1 - 1e-6), rtol=1e-6)

    # the truncated test file has no prediction, but a row
    rejected = pd.read_csv(root / "cache/test/rejected.csv")["ID"]
    assert len(rejected) == 1
    assert rejected[0] not in mean.index
    assert f"{rejected[0]}_any" in found.index
    assert f"-f '{root}/submission/submission.csv' -m" in printed["ensemble"]  # how to submit it
    assert f"1 rejected slices filled (1 with the {FROM_NEIGHBOURS})" in printed["ensemble"]


def test_the_manifest_says_what_went_in(run: tuple[Path, dict[str, str]]) -> None:
    root, printed = run
    manifest = json.loads((root / "submission/manifest.json").read_text())
    assert len(manifest["predictions"]) == 4
    for each in manifest["predictions"]:
        assert file_sha256(Path(each["path"])) == each["sha256"]
        assert (each["split"], each["conf"] in OVER, each["epoch"]) == ("test", True, 2)
    scores = manifest["out_of_fold"]
    assert set(scores) == {*(f"{name} epoch 2" for name in OVER), *OVER, "bag", "mean, consistent", "constant prior"}
    for name in scores:
        assert f"{scores[name]['weighted']:.4f}" in printed["ensemble"]


def test_the_bag_is_summarised(
    script: Script, repository: Path, python: str, run: tuple[Path, dict[str, str]], sequences: str
) -> None:
    root, _ = run
    plain = root.parent / "plain"
    plain.mkdir()
    for folder in ("input", "cache", "model"):
        (plain / folder).symlink_to(root / folder)
    script("ensemble", plain, SEQUENCES=sequences, CONSISTENT="no")
    command = [python, "-m", "src.evaluate.summary", "--root", str(root)]
    bag = str(plain / "submission/out_of_fold.parquet")
    tables = []
    over = [str(path) for path in root.glob("model/*+gru/fold*/valid_epoch*.parquet")]
    for sources in ([bag], over):  # the bag's file holds the mean of its members
        result = subprocess.run([*command, *sources], cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        tables.append(pd.read_csv(root / "submission/summary.csv"))
    (root / "submission/summary.csv").unlink()
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)
    weighted = tables[0].set_index(["level", "label", "metric"]).loc[("slice", "weighted", "log_loss"), "value"]
    manifest = json.loads((plain / "submission/manifest.json").read_text())
    assert weighted == pytest.approx(manifest["out_of_fold"]["bag"]["weighted"], rel=1e-5)


def test_predictions_are_out_of_fold(run: tuple[Path, dict[str, str]]) -> None:
    root, _ = run
    folds = pd.read_parquet(root / "cache/folds.parquet").set_index("ID")["fold"]
    for name in NAMES:
        for fold in map(int, FOLDS.split()):
            predictions = read_predictions(root / f"model/{name}/fold{fold}/valid_epoch3.parquet")
            assert set(predictions.ids) == set(folds[folds == fold].index)


def test_the_report_is_complete(run: tuple[Path, dict[str, str]]) -> None:
    root, printed = run
    assert "not there yet" not in printed["report"]
    assert f"{root}/submission/report.html: " in printed["report"]
    page = (root / "submission/report.html").read_text()
    for section in ("headline", "data", "training", "discrimination", "calibration", "errors", "card"):
        assert f'id="{section}"' in page
    assert "fills this." not in page
    manifest = json.loads((root / "submission/manifest.json").read_text())
    losses = pd.read_csv(root / "submission/report/log_loss.csv").set_index("what")
    for name in OVER:
        expected = manifest["out_of_fold"][f"{name} epoch 2"]["weighted"]
        assert losses.loc[f"{name} epoch 2", "weighted"] == pytest.approx(expected, rel=1e-6)
    worst = pd.read_csv(root / "submission/report/worst_cases.csv")
    assert len(worst) > 0
    assert page.count('<details class="case"') == len(worst)
    assert page.count("data-map=") >= 2 * len(worst)  # with adjacent slices, by classifiers of the fold
    stages = set(pd.read_csv(root / "submission/report/speed.csv")["stage"])
    assert stages == {"headers", "store", "train", "predict", "embed", "sequence", "ensemble"}
    assert (root / "submission/report/roc_any.svg").read_text().startswith("<svg")
    # the model card is the detector's
    card = (root / "model/detector/MODEL_CARD.md").read_text()
    for line in re.findall(r"^[A-Z][a-z ]+ .*\.$", card, flags=re.MULTILINE):
        words = re.sub(r"[`*]", "", line)
        assert words in re.sub(r"<[^>]+>", "", page).replace("&#39;", "'"), line


def test_everything_again_changes_nothing(script: Script, run: tuple[Path, dict[str, str]], sequences: str) -> None:
    root, _ = run
    made = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "input" not in path.parts}
    trained = {path: path.stat().st_mtime_ns for path in root.glob("model/*/fold*/*")}
    for name in SCRIPTS:
        script(name, root, SEQUENCES=sequences)
    assert {path: path.read_bytes() for path in made} == made
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_one_fold_of_one_classifier_reaches_a_submission(
    script: Script, run: tuple[Path, dict[str, str]], sequences: str
) -> None:
    root, _ = run
    other = root.parent / "one fold"
    for folder in ("input", "cache", "model"):
        other.mkdir(exist_ok=True)
        (other / folder).symlink_to(root / folder)
    one = {"CONFS": "tests/confs/efficientnet-b2.yaml", "FOLDS": "3", "EPOCHS": "3"}
    files = [root / "model/efficientnet-b2/fold3/test_epoch3.parquet"]
    files += [root / "model/efficientnet-b2+gru/fold3/test_epoch2.parquet"]
    for members, of in (("cnn", files[:1]), ("sequence", files[1:]), ("last", files[1:]), ("all", files)):
        script("ensemble", other, MEMBERS=members, SEQUENCES=sequences, CONSISTENT="no", **one)
        predictions = sum(pd.read_parquet(file).set_index("ID") for file in of) / len(of)
        found = pd.read_csv(other / "submission/submission.csv").set_index("ID")["Label"]
        slice_id = predictions.index[0]
        assert found[f"{slice_id}_subdural"] == pytest.approx(predictions.loc[slice_id, "subdural"], rel=1e-6)


def test_more_than_simple_bagging(script: Script, run: tuple[Path, dict[str, str]], sequences: str) -> None:
    root, _ = run
    other = root.parent / "more"
    other.mkdir()
    for folder in ("input", "cache", "model"):
        (other / folder).symlink_to(root / folder)
    more = {"BLEND": "weights", "SMOOTH": "auto", "CALIBRATE": "temperature"}
    printed = script("ensemble", other, MEMBERS="all", SEQUENCES=sequences, **more)
    manifest = json.loads((other / "submission/manifest.json").read_text())
    assert manifest["recipe"] == {"blend": "weights", "smooth_mm": None, "calibrate": "temperature", "consistent": True}
    assert f"{manifest['out_of_fold']['weights, smooth auto, temperature, consistent']['weighted']:.4f}" in printed
    assert '-m "blend weights, smooth auto, calibrate temperature, consistent yes"' in printed


def test_the_detector_predicts_what_was_submitted(repository: Path, run: tuple[Path, dict[str, str]]) -> None:
    root, printed = run
    assert "detector: 8 networks, " in printed["export"]
    detector = Detector.load(root / "model/detector")
    store = ImageStore(root / "cache/test")
    table = pd.read_parquet(root / "cache/test.parquet").set_index("ID").loc[store.index["ID"]]
    submission = pd.read_csv(root / "submission/submission.csv").set_index("ID")["Label"]
    for _, part in table.groupby("SeriesInstanceUID"):
        series = Series([store.hounsfield(each) for each in part.index], part["z"].to_numpy(), part.index.tolist())
        expected = submission[row_ids(pd.Series(part.index))].to_numpy().reshape(-1, len(LABELS))
        np.testing.assert_allclose(detector(series), expected, atol=1e-6)


def test_new_studies_get_the_submissions_numbers(
    python: str, repository: Path, run: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, _ = run
    environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(root)}
    # the test set as files that somebody sends, without the tables that the pipeline made of them
    command = ["sh", str(repository / "bin/infer.sh"), str(root / "input/stage_2_test"), "--no-maps"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    submission = pd.read_csv(root / "submission/submission.csv").set_index("ID")["Label"]
    rejected = pd.read_csv(root / "cache/test/rejected.csv")["ID"]
    seen = set()
    for path in (tmp_path / "answers").glob("*/predictions.csv"):
        found = pd.read_csv(path)
        expected = submission[row_ids(found["SOPInstanceUID"])].to_numpy().reshape(-1, len(LABELS))
        np.testing.assert_allclose(found[list(LABELS)], expected, atol=1e-6)
        seen |= set(found["SOPInstanceUID"])
    assert seen == {row_id.rsplit("_", 1)[0] for row_id in submission.index} - set(rejected)


def test_two_processes_train_and_predict_as_one(
    script: Script, repository: Path, run: tuple[Path, dict[str, str]]
) -> None:
    root, _ = run
    other = root.parent / "two_processes"
    other.mkdir()  # no blanks here: CONFS is a list
    for folder in ("input", "cache"):
        (other / folder).symlink_to(root / folder)
    conf = other / "small.yaml"
    conf.write_text(
        # batch norm's running statistics, each process's own, must be one in what is validated and saved
        f"base: {repository}/conf/demo/base.yaml\n"
        "network: {architecture: timm/test_efficientnet, reestimate_batch_norm: false}\n"
        "image_size: 32\nepochs: 1\n"
    )
    shared = {"CONFS": str(conf), "FOLDS": "0", "EPOCHS": "1"}
    script("train", other, NPROC="2", **shared)
    folder = other / "model/small/fold0"
    script("predict", other, NPROC="2", **shared)
    targets = pd.read_parquet(root / "cache/train.parquet").set_index("ID")[list(LABELS)]
    valid = pd.read_parquet(folder / "valid_epoch1.parquet").set_index("ID")
    score = weighted_log_loss(targets.loc[valid.index].to_numpy(), valid.to_numpy())
    assert pd.read_csv(folder / "metrics.csv")["valid"].iloc[0] == pytest.approx(score, abs=1e-6)
    two = {split: pd.read_parquet(folder / f"{split}_epoch1.parquet") for split in ("valid", "test")}
    for split in two:
        (folder / f"{split}_epoch1.parquet").unlink()
    script("predict", other, NPROC="1", **shared)
    for split, by_two in two.items():
        by_one = pd.read_parquet(folder / f"{split}_epoch1.parquet")
        assert by_one["ID"].tolist() == by_two["ID"].tolist()
        np.testing.assert_allclose(by_one[list(LABELS)], by_two[list(LABELS)], atol=1e-6)


def test_a_real_head_ct_as_a_test_set(
    script: Script, run: tuple[Path, dict[str, str]], sequences: str, real_head_ct: Path, tmp_path: Path
) -> None:
    root, _ = run
    images = tmp_path / "input/stage_2_test_images"
    images.mkdir(parents=True)
    ids = {f"ID_{i * 7919 % 4096:09x}": path for i, path in enumerate(sorted(real_head_ct.glob("*.dcm")))}
    for slice_id, path in ids.items():
        (images / f"{slice_id}.dcm").symlink_to(path)
    rows = row_ids(pd.Series(sorted(ids)))
    pd.DataFrame({"ID": rows, "Label": 0.5}).to_csv(tmp_path / "input/stage_2_sample_submission.csv", index=False)
    (tmp_path / "input/stage_2_train").symlink_to(root / "input/stage_2_train")
    shutil.copy(root / "input/stage_2_train.csv", tmp_path / "input")
    # with the predictions for the other test set, which must not pass for this one's
    shutil.copytree(root / "model/efficientnet-b2/fold0", tmp_path / "model/efficientnet-b2/fold0")

    settings = {"CONFS": "tests/confs/efficientnet-b2.yaml", "FOLDS": "0", "SEQUENCES": sequences}
    for name in ("preprocess", "predict", "sequence", "ensemble"):
        script(name, tmp_path, **settings)

    store = ImageStore(tmp_path / "cache/test")
    assert len(store.index) == 28
    # read off the files' bytes with od: tests/dicom/test_pixels.py
    golden = {"14.dcm": [(256, 256, 4), (200, 300, 34), (255, 100, 64), (0, 0, -200)], "20.dcm": [(150, 260, 32)]}
    names = {path.name: slice_id for slice_id, path in ids.items()}
    for name, values in golden.items():
        for row, column, hu in values:
            assert store.hounsfield(names[name])[row, column] == hu
    submission = pd.read_csv(tmp_path / "submission/submission.csv")
    assert submission["ID"].tolist() == rows.tolist()
    assert submission["Label"].between(1e-6, 1 - 1e-6).all()
