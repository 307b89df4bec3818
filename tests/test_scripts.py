"""The scripts as a user meets them: help, mistakes, signals."""

import os
import shlex
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from src.files.layout import Layout

SCRIPTS = ("setup", "demo", "test", "preprocess", "train", "predict", "sequence", "ensemble")
SCRIPTS += ("report", "export", "infer", "validate", "serve", "pretrain")
MODULES = (
    "src.synthetic.make_competition",
    "src.preprocess.dicom_to_dataframe",
    "src.preprocess.create_dataset",
    "src.preprocess.make_folds",
    "src.preprocess.audit",
    "src.preprocess.unpack_csv",
    "src.preprocess.import_studies",
    "src.train.launch",
    "src.classify.train",
    "src.classify.predict",
    "src.classify.weights",
    "src.sequence.embed",
    "src.sequence.train",
    "src.sequence.predict",
    "src.ensemble.compare",
    "src.ensemble.make_submission",
    "src.evaluate.summary",
    "src.report.make",
    "src.report.montage",
    "src.detector.export",
    "src.study.infer",
    "src.study.validate",
    "src.viewer.serve",
)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(repository: Path, python: str) -> Run:
    """Run a script with arguments and variables."""

    def _run(script: str, *arguments: str, cwd: Path = repository, **env: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHON": python, **{key: str(value) for key, value in env.items()}}
        command = ["sh", str(repository / f"bin/{script}.sh"), *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return _run


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_an_example(run: Run, script: str, tmp_path: Path) -> None:
    result = run(script, "-h", cwd=tmp_path)
    assert result.returncode == 0
    assert f"sh bin/{script}.sh" in result.stdout
    assert not result.stdout.startswith("#")


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_help_with_an_example(repository: Path, python: str, module: str) -> None:
    result = subprocess.run([python, "-m", module, "-h"], cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0
    assert f"example: python -m {module}" in result.stdout.replace("\n", " ")


def _mistake(result: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert result.returncode == 2, result.stderr
    (last,) = result.stderr.strip().splitlines()
    assert last.startswith("error: ")
    assert "Traceback" not in result.stderr
    for words in expected:
        assert words in last


def test_missing_input(run: Run, tmp_path: Path, competition: Path) -> None:
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "has no stage_2_train.csv", "README.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "input", "model", "submission"]
    (tmp_path / "input/stage_1_train.csv").write_text((competition / "input/stage_2_train.csv").read_text())
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "no folder stage_1_train or stage_1_train_images")


def _zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"rsna-intracranial-hemorrhage-detection/{path.relative_to(folder)}")


def test_kaggles_zip_gives_the_same_bytes_as_the_folders(run: Run, tmp_path: Path, preprocessed: Layout) -> None:
    (tmp_path / "input").mkdir()
    _zip(tmp_path / "input/rsna.zip", preprocessed.root / "input")
    result = run("preprocess", ICH_ROOT=tmp_path, JOBS=2)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "input").iterdir()} == {
        "rsna.zip", "stage_2_train.csv", "stage_2_sample_submission.csv"
    }  # fmt: skip
    for split in ("train", "test"):
        for path in preprocessed.store(split).iterdir():
            found = tmp_path / "cache" / split / path.name
            if path.name == "index.parquet":  # it holds the hash of rejected.csv, which names the files
                pd.testing.assert_frame_equal(pd.read_parquet(found), pd.read_parquet(path))
            elif path.name != "rejected.csv":
                assert found.read_bytes() == path.read_bytes(), path.name
        rejected = pd.read_csv(tmp_path / "cache" / split / "rejected.csv")
        assert rejected["reason"].tolist() == ["truncated"]
        assert rejected["path"][0].endswith(f"rsna.zip/rsna-intracranial-hemorrhage-detection/stage_2_{split}/"
                                            f"{rejected['ID'][0]}.dcm")  # fmt: skip
    assert (tmp_path / "cache/folds.parquet").read_bytes() == preprocessed.folds.read_bytes()
    assert "in several folds: 0 patients, 0 studies, 0 images" in result.stdout


def test_mistakes_with_zips(run: Run, tmp_path: Path, competition: Path) -> None:
    (tmp_path / "input").mkdir()
    archive = tmp_path / "input/rsna.zip"
    _zip(archive, competition / "input")
    archive.write_bytes(archive.read_bytes()[:-1000])
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "rsna.zip is no whole zip archive", "download it again")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("other.csv", "")
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "holds none of stage_2_train.csv")
    (tmp_path / "input/other.zip").touch()
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "several zips, other.zip and rsna.zip")


def test_csv_files_are_taken_out_of_the_zip_where_one_is_missing(run: Run, tmp_path: Path, competition: Path) -> None:
    (tmp_path / "input").mkdir()
    _zip(tmp_path / "input/rsna.zip", competition / "input")
    mine = tmp_path / "input/stage_2_train.csv"  # as a run leaves it that is killed between the two, and as one's own
    rows = (competition / "input/stage_2_train.csv").read_text().splitlines(keepends=True)
    mine.write_text("".join(rows))
    before = mine.stat().st_mtime_ns
    result = run("preprocess", ICH_ROOT=tmp_path, ENGINE="serial")
    assert result.returncode == 0, result.stderr
    assert "input: stage_2_sample_submission.csv from rsna.zip" in result.stdout
    assert mine.stat().st_mtime_ns == before


def test_zips_that_are_not_needed_are_no_concern(run: Run, tmp_path: Path, preprocessed: Layout) -> None:
    (tmp_path / "input").mkdir()
    for path in (preprocessed.root / "input").iterdir():
        (tmp_path / "input" / path.name).symlink_to(path)
    for name in ("a.zip", "b.zip"):
        (tmp_path / "input" / name).touch()
    result = run("preprocess", ICH_ROOT=tmp_path, ENGINE="serial")
    assert result.returncode == 0, result.stderr


def test_ids_never_lead_out_of_the_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "input/stage_2_train").mkdir(parents=True)
    for slice_id in ("ID_../../x", "ID_12/../../x", "/etc/passwd", "ID_"):
        (tmp_path / "input/stage_2_train.csv").write_text(f"ID,Label\n{slice_id}_any,0\n")
        _mistake(run("preprocess", ICH_ROOT=tmp_path), f"1 malformed ids: '{slice_id}_any' in row 2")


def test_a_malformed_id(run: Run, tmp_path: Path) -> None:
    (tmp_path / "input/stage_2_train_images").mkdir(parents=True)
    (tmp_path / "input/stage_2_train.csv").write_text("ID,Label\nID_12_any,0\nID_12_epidura,0\n")
    _mistake(run("preprocess", ICH_ROOT=tmp_path), "'ID_12_epidura' in row 3", "stage_2_train.csv")


def test_an_unknown_key_and_a_missing_conf(run: Run, repository: Path, tmp_path: Path) -> None:
    conf = tmp_path / "mine.yaml"
    conf.write_text(f"base: {repository}/conf/base.yaml\nnetwork: {{architecture: timm/resnet18}}\nbatchsize: 4\n")
    _mistake(run("train", CONFS=conf, ICH_ROOT=tmp_path), "unknown key batchsize; did you mean batch_size?")
    _mistake(run("train", CONFS="conf/none.yaml", ICH_ROOT=tmp_path), "conf/none.yaml is missing")


@pytest.mark.parametrize(
    ("script", "settings", "expected"),
    [
        ("train", {"NPROC": "x"}, "NPROC=x: expected a number of processes"),
        ("train", {"FOLDS": "a"}, "FOLDS=a: expected numbers with blanks between them, such as 0 1"),
        ("predict", {"EPOCHS": "2,3"}, "EPOCHS=2,3: expected numbers with blanks between them"),
        ("train", {"CONF": "x.yaml"}, "CONF=x.yaml has no effect; did you mean CONFS?"),
        ("ensemble", {"FOLD": "0"}, "FOLD=0 has no effect; did you mean FOLDS?"),
        ("preprocess", {"ich_root": "/data"}, "ich_root=/data has no effect; did you mean ICH_ROOT?"),
        ("predict", {"CONFS": " "}, "CONFS is blank"),
        ("train", {"ICH_ROOT": "/etc/passwd"}, "is no folder"),
        ("train", {"CONFS": "conf/efficientnet-b2.yaml conf/none.yaml"}, "conf/none.yaml is missing; expected a conf"),
        ("sequence", {"SEQUENCES": "conf/none.yaml"}, "conf/none.yaml is missing; expected a conf"),
        ("sequence", {"PCA": "many"}, "PCA=many: expected a number of components"),
        ("sequence", {"EMBED_EPOCH": "last"}, "EMBED_EPOCH=last: expected an epoch"),
        ("ensemble", {"CONSISTENT": "true"}, "CONSISTENT=true: expected yes or no"),
        ("ensemble", {"MEMBERS": "both"}, "MEMBERS=both: expected last, cnn, sequence or all"),
        ("preprocess", {"JOBS": "0"}, "argument --jobs: 0: expected 1 or more"),
        ("preprocess", {"ENGINE": "slurm"}, "argument --engine: invalid choice: 'slurm'"),
        ("preprocess", {"MAX_REJECTED": "nan"}, "MAX_REJECTED=nan: expected a fraction from 0 to 1"),
        ("preprocess", {"DASK_ADDRESS": "tcp://host:8786"}, "--dask-address goes with --engine dask, not with loky"),
    ],
)
def test_bad_settings(
    run: Run, competition: Path, tmp_path: Path, script: str, settings: dict[str, str], expected: str
) -> None:
    (tmp_path / "input").symlink_to(competition / "input")
    _mistake(run(script, **{"ICH_ROOT": tmp_path, **settings}), expected)


def test_arguments_that_would_be_ignored(run: Run) -> None:
    _mistake(run("predict", "--epochs", "3"), "--epochs: predict.sh takes no arguments, but variables")


def test_steps_out_of_order(run: Run, tmp_path: Path, competition: Path) -> None:
    (tmp_path / "input").symlink_to(competition / "input")
    _mistake(run("train", ICH_ROOT=tmp_path), "folds.parquet is missing; run sh bin/preprocess.sh")
    _mistake(run("predict", ICH_ROOT=tmp_path), "folds.parquet is missing; run sh bin/preprocess.sh")
    _mistake(run("sequence", ICH_ROOT=tmp_path), "folds.parquet is missing; run sh bin/preprocess.sh")
    _mistake(run("ensemble", ICH_ROOT=tmp_path), "no predictions", "run sh bin/predict.sh")
    _mistake(run("ensemble", ICH_ROOT=tmp_path, MEMBERS="sequence"), "run sh bin/sequence.sh")


def test_a_mistake_met_by_two_processes(run: Run, tmp_path: Path) -> None:
    result = run("train", ICH_ROOT=tmp_path, NPROC=2)
    _mistake(result, "folds.parquet is missing; run sh bin/preprocess.sh")
    assert len(result.stderr.splitlines()) == 1


def test_a_python_that_is_not_there(run: Run, tmp_path: Path) -> None:
    _mistake(run("train", PYTHON=tmp_path / "python"), "python is missing; run sh bin/setup.sh first")
    _mistake(run("setup", "--developer", PYTHON=""), "unknown argument --developer")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_reaches_what_a_script_runs(
    repository: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    # a python that notes its start and its end by SIGTERM, in place of a long training
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ntrap \'echo told >>"$ICH_ROOT/log"; exit 75\' TERM\necho started >"$ICH_ROOT/log"\n'
        "while :; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "ICH_ROOT": str(tmp_path)}
    process = subprocess.Popen(
        ["sh", str(repository / "bin/train.sh")],
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal, not as in a background job
    )
    log = tmp_path / "log"
    try:
        for _ in range(200):
            if log.is_file() and log.read_text():
                break
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=20) == status
    finally:
        process.kill()
    assert log.read_text() == "started\ntold\n"


def _side_by_side(repository: Path, tmp_path: Path, commands: list[str]) -> subprocess.Popen[str]:
    """A script that starts some shell commands beside each other, and waits for all."""
    (tmp_path / "bin").mkdir()
    shutil.copy(repository / "bin/_common.sh", tmp_path / "bin")
    starts = "".join(f"start sh -c {shlex.quote(command)}\n" for command in commands)
    script = tmp_path / "bin/both.sh"
    script.write_text(f'set -eu\n. "$(dirname "$0")/_common.sh"\n{starts}finish\necho after\n')
    return subprocess.Popen(["sh", str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_signal_reaches_all_that_a_script_started(repository: Path, tmp_path: Path) -> None:
    wait = "trap 'echo told; exit 75' TERM; echo begun; while :; do sleep 0.05; done"
    process = _side_by_side(repository, tmp_path, [wait, wait])
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n", "begun\n"]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (75, "told\ntold\n")


@pytest.mark.parametrize(
    ("commands", "status", "output"),
    [
        (["exit 2", "sleep 0.2; echo other"], 2, "other\n"),  # the other runs to its end
        (["echo one", "exit 3"], 3, "one\n"),
        (["echo one", "sleep 0.2; echo two"], 0, "one\ntwo\nafter\n"),
        (["exit 75", "exit 2"], 2, ""),  # a failure outranks a stop
    ],
)
def test_the_first_status_that_is_not_0_is_the_scripts(
    repository: Path, tmp_path: Path, commands: list[str], status: int, output: str
) -> None:
    process = _side_by_side(repository, tmp_path, commands)
    found, _ = process.communicate(timeout=20)
    assert (process.returncode, found) == (status, output)


def test_a_signal_in_the_moment_of_a_start_is_not_lost(repository: Path, tmp_path: Path) -> None:
    # a child that was just forked still has the shell's traps, and forgets what comes then
    wait = "trap 'exit 75' TERM; while :; do sleep 0.05; done"
    process = _side_by_side(repository, tmp_path, [wait])
    process.send_signal(signal.SIGTERM)
    process.communicate()
    for i in range(30):
        script = subprocess.Popen(["sh", str(tmp_path / "bin/both.sh")], stdout=subprocess.DEVNULL)
        time.sleep(0.002 + i * 0.0002)
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=20) in (75, -signal.SIGTERM)  # the latter before the script has set its traps
