"""The plan of a generated competition, the replacement of its folder, and the command."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from src.errors import UserError
from src.labels import SUBTYPES
from src.synthetic.dicom_writer import encode_dicom
from src.synthetic.make_competition import MARKER, SCANS, make_competition
from src.synthetic.plan import make_plan


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- the plan


@pytest.mark.parametrize("patients", [8, 9, 10, 11, 13, 18, 25, 36, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_of_any_size_spreads_subtypes_and_has_every_oddity(patients, seed):
    plan = make_plan(patients=patients, slices=6, size=64, seed=seed)
    train = {s.patient: s.bleeds for s in plan.studies if s.split == "train"}
    counts = [sum(name in bleeds for bleeds in train.values()) for name in SUBTYPES]
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1
    assert all(len(set(s.bleeds)) == len(s.bleeds) <= 2 for s in plan.studies)
    assert any(s.bleeds for s in plan.studies if s.split == "test")
    assert 0.38 <= np.mean([bool(s.bleeds) for s in plan.studies]) <= (0.55 if patients > 20 else 0.62)
    assert len({s.patient for s in plan.studies}) == patients
    ids = [name for s in plan.studies for name in s.slice_ids]
    assert len(set(ids)) == len(ids)
    assert 5.5 <= np.mean([len(s.slice_ids) for s in plan.studies]) <= 6.5
    odd = [*plan.truncated, plan.constant, *plan.identical]
    assert len(set(odd)) == len(odd)


def test_prevalence_of_the_demo_is_several_times_the_competitions(tmp_path):
    summary = make_competition(tmp_path / "input", patients=36, slices=12, size=32, seed=0)
    assert 0.28 <= summary.prevalence["any"] <= 0.45
    assert min(summary.prevalence[name] for name in SUBTYPES) > 0.04
    assert 400 <= sum(summary.slices.values()) <= 600


# ---- the folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(competition, tmp_path):
    make_competition(tmp_path / "again", **competition.settings, jobs=2)
    assert digests(tmp_path / "again") == digests(competition.folder)
    make_competition(tmp_path / "other", **{**competition.settings, "seed": 4})
    assert not set(digests(tmp_path / "other")) & {name for name in digests(competition.folder) if "/" in name}


def test_the_bytes_do_not_depend_on_the_number_of_threads(competition):
    settings = competition.settings
    studies = make_plan(**settings).studies
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append([SCANS[settings["difficulty"]].of(each, settings["seed"]).slice(1).stored for each in studies])
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)


def test_a_slice_does_not_depend_on_those_made_before_it(competition, settings):
    study = make_plan(**competition.settings).studies[-1]
    rendered = SCANS[competition.settings["difficulty"]].of(study, settings["seed"]).slice(2)
    path = competition.images("test")[study.slice_ids[2]]
    assert path.read_bytes() == encode_dicom(rendered.stored, rendered.header)


@pytest.fixture
def own(competition, tmp_path) -> Path:
    return Path(shutil.copytree(competition.folder, tmp_path / "input"))


def test_the_same_settings_again_do_nothing(own: Path, competition):
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    summary = make_competition(own, **competition.settings)
    assert summary.already_there
    assert summary.oddities == competition.summary.oddities
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_a_missing_file_is_made_again(own: Path, competition):
    next((own / "stage_2_test").iterdir()).unlink()
    assert not make_competition(own, **competition.settings).already_there
    assert digests(own) == digests(competition.folder)


def test_other_settings_replace_everything(own: Path, competition, settings):
    make_competition(own, **{**settings, "seed": 5})
    assert json.loads((own / MARKER).read_text())["settings"]["seed"] == 5
    assert not set(digests(own)) & {name for name in digests(competition.folder) if "/" in name}
    assert [path.name for path in own.parent.iterdir()] == ["input"]


@pytest.mark.parametrize("foreign", ["notes.txt", "stage_2_train/ID_0123456789.dcm", "stage_2_train.csv"])
def test_a_folder_with_foreign_files_is_refused_and_kept(own: Path, foreign: str, settings):
    (own / foreign).write_text("somebody's work")
    before = digests(own)
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(own, **{**settings, "seed": 5})
    assert digests(own) == before


def test_kaggles_data_are_refused_and_kept(tmp_path, settings):
    (tmp_path / "stage_2_train.csv").write_text("ID,Label\n")
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(tmp_path, **settings)
    assert (tmp_path / "stage_2_train.csv").read_text() == "ID,Label\n"


@pytest.mark.parametrize("marker", ["", "[]", '{"generator": "something else"}'])
def test_a_marker_that_is_not_ours_protects(tmp_path, marker, settings):
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(UserError, match="was not generated here"):
        make_competition(tmp_path, **settings)


def test_what_a_killed_run_left_is_cleared_away(own: Path, tmp_path, competition):
    target = tmp_path / "fresh"
    left = target.with_name("fresh.partial")
    (left / "stage_2_train").mkdir(parents=True)
    (left / "stage_2_train" / "ID_000000000.dcm").write_bytes(b"half")
    marker = json.loads((own / MARKER).read_text())
    (left / MARKER).write_text(json.dumps({key: marker[key] for key in ("generator", "version", "settings")}))
    make_competition(target, **competition.settings)
    assert not left.exists()
    assert digests(target) == digests(competition.folder)


@pytest.mark.parametrize(("name", "value"), [("patients", 7), ("slices", 3), ("size", 16), ("seed", -1)])
def test_too_little_is_a_users_mistake_that_names_the_setting(tmp_path, name, value, settings):
    with pytest.raises(UserError, match=f"{name} {value}: expected"):
        make_competition(tmp_path / "input", **{**settings, name: value})
    assert not (tmp_path / "input").exists()


def test_the_command_reports_and_warns_of_nothing(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "src.synthetic.make_competition"]
    options = ["--patients", "8", "--slices", "4", "--size", "32", "--difficulty", "easy", "--seed", "0"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "input"), *options], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8 patients" in done.stdout
    assert "arning" not in done.stderr
    mistake = subprocess.run(
        [*command, "--output", str(tmp_path), *options], capture_output=True, text=True, cwd=root, check=False
    )
    assert mistake.returncode == 2
    assert mistake.stderr.startswith("error: ")
    assert mistake.stderr.count("\n") == 1
