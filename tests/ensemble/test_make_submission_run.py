"""The command over all that a run has predicted: which files it takes, and which it refuses."""

import json
from collections.abc import Iterable
from pathlib import Path

from src.config import dump_config, load_config
from src.evaluate.out_of_fold import read_truth
from src.files.layout import Layout
from src.files.predictions import read_predictions, write_predictions
from tests.ensemble.conftest import FOLDS, Refused, Run, making, prediction_files, provenance_of


def _of_run(root: Path, *more: str) -> list[str]:
    """Everything that the run has predicted, as bin/ensemble.sh asks for it."""
    confs = [str(root / "conf" / f"{name}.yaml") for name in ("x", "y", "gru")]
    arguments = ["--confs", *confs[:2], "--sequences", confs[2], "--root", str(root)]
    arguments += ["--sample", str(root / "input/stage_2_sample_submission.csv")]
    return [*arguments, "--output", str(root / "submission/submission.csv"), *more]


def _second_stage(root: Path, folds: Iterable[int] = FOLDS) -> None:
    """Predictions of a sequence model over `x`: those of its epoch 3, under another name."""
    layout = Layout(root)
    for fold in folds:
        for split in ("valid", "test"):
            read = read_predictions(layout.fold("x", fold).predictions(split, 3))
            of = provenance_of("x+gru", fold, 12, split, classifier="x", classifier_epoch=3, classifier_checkpoint="x")
            write_predictions(layout.fold("x+gru", fold).predictions(split, 12), read.ids, read.probabilities, of)


def _members(root: Path) -> list[str]:
    return list(json.loads((root / "submission/manifest.json").read_text())["numbers"]["weights"])


def test_all_of_a_run_is_what_its_files_make(own: Path, run: Run) -> None:
    assert run(*making(own)).returncode == 0
    by_files = {path.name: path.read_bytes() for path in (own / "submission").iterdir()}
    result = run(*_of_run(own))
    assert (result.returncode, result.stderr) == (0, "")
    by_run = {path.name: path.read_bytes() for path in (own / "submission").iterdir()}
    manifests = [json.loads(files.pop("manifest.json")) for files in (by_files, by_run)]
    assert manifests[0]["out_of_fold"].keys() == manifests[1]["out_of_fold"].keys()
    paths = [{each["path"] for each in manifest["predictions"]} for manifest in manifests]
    assert paths[0] == paths[1] == set(prediction_files(own, "test"))
    assert by_files == by_run


def test_the_last_stage_of_each_classifier_is_bagged(own: Path, run: Run) -> None:
    _second_stage(own)
    result = run(*_of_run(own))
    uneven = "members count alike, and classifiers have different numbers of them: x has 1, y has 2\n"
    assert (result.returncode, result.stderr) == (0, uneven)
    assert _members(own) == ["x+gru epoch 12", "y epoch 2", "y epoch 3"]
    result = run(*_of_run(own, "--members", "cnn"))
    assert (result.returncode, result.stderr) == (0, "")
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
        "x+gru is left out: it has not predicted both splits of all folds",
    ]
    assert _members(own) == ["x epoch 2", "x epoch 3", "y epoch 2", "y epoch 3"]


def test_mistakes_in_a_run_are_named(own: Path, run: Run, refused: Refused) -> None:
    nothing = "has no predictions of the test set by x, y, folds 0, 1, 2, 3, 4, "
    refused(_of_run(own, "--members", "sequence"), f"{nothing}gru", step="sequence")
    refused(_of_run(own, "--epochs", "7", "8"), f"{nothing}epoch 7, epoch 8", step="predict")
    refused([each for each in _of_run(own) if each not in ("--root", str(own))], "--confs needs --root")
    refused(_of_run(own, "--out-of-fold", prediction_files(own, "valid")[0]), "finds out-of-fold files by itself")
    refused([*making(own), "--members", "cnn"], "--members goes with --confs")
    refused([*making(own), "--folds", "0"], "--folds goes with --confs")
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
    assert run(*making(own)).returncode == 0
    bagged = read_predictions(own / "submission/out_of_fold.parquet")
    assert bagged.provenance is None
    assert bagged.folds == read_truth(Layout(own)).folds_fingerprint


def test_a_manifest_rebuilds_its_submission_whatever_was_trained_since(own: Path, run: Run) -> None:
    _second_stage(own)
    assert run(*_of_run(own)).returncode == 0
    before = (own / "submission/submission.csv").read_bytes()
    (own / "submission/submission.csv").unlink()
    Layout(own).fold("x", 2).checkpoint(3).write_bytes(b"trained again")
    result = run("--rebuild", str(own / "submission/manifest.json"))
    assert result.returncode == 0, result.stderr
    assert (own / "submission/submission.csv").read_bytes() == before


def test_the_conf_beside_the_weights_names_the_classifier_too(own: Path, run: Run) -> None:
    folder = Layout(own).fold("x", 0)
    folder.conf.write_text(dump_config(load_config(own / "conf/x.yaml")))
    arguments = _of_run(own)
    arguments[arguments.index("--confs") + 1] = str(folder.conf)
    assert run(*arguments).returncode == 0
    assert _members(own) == ["x epoch 2", "x epoch 3", "y epoch 2", "y epoch 3"]


def test_a_fold_that_is_given_twice_counts_once(own: Path, run: Run) -> None:
    folds = [str(fold) for fold in FOLDS]
    result = run(*_of_run(own, "--folds", folds[0], *folds))
    assert (result.returncode, result.stderr) == (0, "")  # none of its files is missed
    manifest = json.loads((own / "submission/manifest.json").read_text())
    assert {each["path"] for each in manifest["predictions"]} == set(prediction_files(own, "test"))
    assert len(manifest["predictions"]) == len(prediction_files(own, "test"))
