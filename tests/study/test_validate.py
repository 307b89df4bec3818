import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from src.errors import UserError
from src.files.study_labels import StudyLabels
from src.labels import LABELS
from src.study.find import Scan, Study, find_studies
from src.study.match import match
from src.study.results import Row
from src.study.validation import ENOUGH, GROUPS, PROBABILITIES, cases_table, reason_of, validation_frame
from src.study.validation_report import validation_report
from tests.study.conftest import Head

Validate = Callable[..., subprocess.CompletedProcess[str]]
POINTS = {"youden": {**dict.fromkeys(LABELS, 0.5), "epidural": None}}


@pytest.fixture(scope="module")
def heads(write_head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six studies of five patients, in one of CQ500's spellings, of two scanners."""
    folder = tmp_path_factory.mktemp("heads")
    for i in range(6):
        tags = {"Manufacturer": "GE" if i % 2 else "Siemens", "PatientAge": f"0{30 + 10 * i}Y"}
        patient = f"CQ500CT{min(i, 4)}"
        write_head(folder / str(i), 10 + i, patient=patient, study=f"1.2.{i}", series=f"1.2.{i}.1", **tags)
    return folder


@pytest.fixture(scope="module")
def validate(
    repository: Path, python: str, detector_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Validate:
    """Run the command in one folder, so that later runs find the answers of earlier ones."""
    output = tmp_path_factory.mktemp("validate") / "out"

    def _validate(*arguments: object, output: Path = output) -> subprocess.CompletedProcess[str]:
        given = [*map(str, arguments), "--detector", str(detector_folder), "--output", str(output), "--no-maps"]
        command = [python, "-m", "src.study.validate", *given, "--engine", "serial"]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        done.output = output  # type: ignore[attr-defined]
        return done

    return _validate


def _csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labelled_heads_are_evaluated_and_nothing_is_read_twice(
    validate: Validate, heads: Path, tmp_path: Path
) -> None:
    header = "name,Category," + ",".join(f"R{r}:{f}" for r in (1, 2, 3) for f in ("ICH", "IPH", "EDH"))
    reads = _csv(
        tmp_path / "reads.csv",
        header,
        "CQ500-CT-0,B1,1,1,0,1,1,0,0,0,0",
        "CQ500-CT-1,B1,0,0,0,0,0,0,1,1,0",
        "CQ500-CT-2,B2,1,1,,0,0,,,,",
        "CQ500-CT-4,B2,1,0,0,1,0,0,1,0,0",
        "CQ500-CT-9,B2,1,1,0,1,0,0,1,0,0",
    )
    done = validate(heads, "--labels", reads, "--prevalence", "0.1")
    assert done.returncode == 0, done.stderr
    out: Path = done.output  # type: ignore[attr-defined]
    assert "labels that match no study: CQ500-CT-9 (nearly CQ500-CT-3)" in done.stdout
    assert "studies without labels: CQ500-CT-3 (nearly CQ500-CT-9)" in done.stdout
    assert "one label for several studies: CQ500-CT-4" in done.stdout
    assert "no label: any 1, epidural 1, intraparenchymal 1, intraventricular 5" in done.stdout
    assert "readers divided: any 1, intraparenchymal 1" in done.stdout

    cases = pd.read_csv(out / "validation_cases.csv").set_index("StudyInstanceUID")
    assert cases["any"].fillna(-1).to_dict() == {"1.2.0": 1, "1.2.1": 0, "1.2.2": -1, "1.2.4": 1, "1.2.5": 1}
    for uid in cases.index:  # the numbers that infer would have written
        summary = json.loads((out / f"{uid}.1" / "summary.json").read_text())
        assert cases.loc[uid, PROBABILITIES].tolist() == pytest.approx(list(summary["study"].values()), rel=1e-12)
    frame = pd.read_csv(out / "validation.csv", keep_default_na=False, na_values={"value": "", "low": "", "high": ""})
    whole = frame[frame["group"] == "all"].set_index(["label", "metric", "operating_point"])
    known = cases[cases["any"].notna()]
    auc = whole.loc[("any", "auc", "")]
    assert auc["value"] == pytest.approx(roc_auc_score(known["any"], known["p_any"]))
    assert auc[["n", "positives", "patients"]].tolist() == ["4", "3", "3"]
    assert not np.isnan(whole.loc[("intraparenchymal", "sensitivity", "youden"), "value"])
    assert np.isnan(whole.loc[("epidural", "sensitivity", "youden"), "value"])  # which has no threshold
    assert f"{auc['value']:.3f}" in done.stdout
    written = json.loads((out / "validation.json").read_text())
    assert written["labels"]["unmatched"] == ["CQ500-CT-9"]
    assert len(written["figures"]) == len(frame)

    answers = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.parent != out}
    again = validate(heads, "--labels", reads, "--prevalence", "0.2")
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in answers} == answers
    assert "PPV at 20 %" in again.stdout


def test_what_is_refused_is_counted_with_its_labels(
    validate: Validate, write_head: Head, heads: Path, tmp_path: Path
) -> None:
    write_head(tmp_path / "in" / "knee", study="1.3", BodyPartExamined="KNEE")
    for path in write_head(tmp_path / "in" / "cut", study="1.4"):
        path.write_bytes(path.read_bytes()[:-100])
    labels = _csv(tmp_path / "own.csv", "StudyInstanceUID,any", "1.2.0,0", "1.2.1,1", "1.3,1", "1.4,0")
    done = validate(heads, tmp_path / "in", "--labels", labels)
    assert done.returncode == 0, done.stderr
    assert "2 studies of 2 patients, of 4 with labels; 2 have no answer (1 of them with a bleed)" in done.stdout
    assert "series: 2 read, 1 refused, 0 failed, 1 not read" in done.stdout
    assert "refused: none of its slices can be read (1)" in done.stdout
    assert "not read: BodyPartExamined is KNEE (1)" in done.stdout


def test_mistakes_are_one_line(validate: Validate, heads: Path, tmp_path: Path) -> None:
    wrong = _csv(tmp_path / "wrong.csv", "PatientID,any", "CQ500CT00,1", "CQ500CT_11,0", "x,1")
    none = _csv(tmp_path / "none.csv", "StudyInstanceUID,any", "9.9.1,1")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((heads, "--labels", none), "none of the 1 ids of the labels is the StudyInstanceUID of one of the 6 studies"),
        ((tmp_path / "empty", "--labels", wrong), "no CT slices found in 0 files"),
        ((heads, "--labels", tmp_path / "no.csv"), "no.csv is missing"),
        ((heads,), "the following arguments are required: --labels"),
    ):
        done = validate(*arguments, output=tmp_path / "out")
        assert done.returncode == 2, done.stdout
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert words in line
    assert not (tmp_path / "out").exists()


def test_the_script_takes_paths_as_the_caller_means_them(
    repository: Path, python: str, heads: Path, detector_folder: Path, tmp_path: Path
) -> None:
    _csv(tmp_path / "own.csv", "PatientID,any", "CQ500-CT-0,1")
    (tmp_path / "in").symlink_to(heads / "0")
    command = ["sh", str(repository / "bin/validate.sh"), "in", "--labels", "own.csv", "--no-maps"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "JOBS": "1", "ENGINE": "serial", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--detector", str(detector_folder)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "validation" / "validation.csv").is_file()


# ---- matching


def _labels(kind: str, values: dict[str, Sequence[float]]) -> StudyLabels:
    return StudyLabels(kind, list(values), np.array(list(values.values()), dtype=float), np.zeros(6, dtype=int), [])


def test_a_study_has_the_maximum_of_its_series(heads: Path) -> None:
    (study,) = find_studies([heads / "0"], engine="serial").studies
    (scan,) = study.scans
    other = Scan([replace(each, series="1.2.0.2") for each in scan.slices], scan.z, 0)
    study = Study(study.uid, study.patient, [scan, other], [])
    nan = np.nan
    values = {"1.2.0.1": [0, 0, nan, nan, 1, 0], "1.2.0.2": [1, 0, 0, nan, nan, 0], "1.2.0.3": [1] * 6}
    matched = match(_labels("SeriesInstanceUID", values), [study])
    np.testing.assert_array_equal(matched.targets, [[1, 0, 0, nan, 1, 0]])
    assert (matched.labels_left, matched.disagreeing) == (["1.2.0.3"], ["1.2.0"])

    answers = [dict.fromkeys(LABELS, 0.2) | {"subdural": 0.9}, dict.fromkeys(LABELS, 0.3)]
    rows = [
        Row(study.patient, study.uid, uid, "", "read", "", {"study": answer}, "")
        for uid, answer in zip(("1.2.0.1", "1.2.0.2"), answers, strict=True)
    ]
    case = cases_table(matched, rows).iloc[0]
    assert case[PROBABILITIES].tolist() == [0.3, 0.3, 0.3, 0.3, 0.3, 0.9]
    assert case["SeriesInstanceUID"] == "1.2.0.2"
    assert case[list(GROUPS)].tolist() == ["SIEMENS", "over 3.5 mm", "soft", "female", "18 to 39"]


def test_near_matches_are_suggested(heads: Path) -> None:
    studies = find_studies([heads / "0", heads / "1"], engine="serial").studies
    with pytest.raises(UserError) as error:
        match(_labels("PatientID", {"CQ500-CT-01x": [1] * 6, "other": [0] * 6}), studies)
    assert "none of the 2 ids" in str(error.value)
    assert "CQ500-CT-01x (nearly CQ500-CT-" in str(error.value)
    assert "other;" in str(error.value)


@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("not a head CT that can be judged: bone surrounds at most 4 cm2", "not a head CT that can be judged"),
        ("the same scan as series 3, which is read: kernel B is", "the same scan as series another, which is read"),
        ("12 objects that are no CT slices (MR): x", "objects that are no CT slices (MR)"),
        ("RuntimeError: no kernel", "RuntimeError"),
    ],
)
def test_reasons_are_counted_by_kind(why: str, kind: str) -> None:
    assert reason_of(why) == kind


# ---- groups


def _cases(n: int) -> tuple[pd.DataFrame, StudyLabels]:
    rng = np.random.default_rng(0)
    probabilities = rng.random((n, 6))
    targets = (rng.random((n, 6)) < probabilities).astype(float)
    table = pd.DataFrame(targets, columns=list(LABELS)).join(pd.DataFrame(probabilities, columns=PROBABILITIES))
    table = table.assign(PatientID=[f"p{i // 2}" for i in range(n)], StudyInstanceUID=[f"1.{i}" for i in range(n)])
    table = table.assign(status="read", why="", **dict.fromkeys(GROUPS, ""))
    return table, _labels("StudyInstanceUID", {f"1.{i}": row for i, row in enumerate(targets.tolist())})


def test_groups_are_evaluated_where_they_are_large_enough() -> None:
    cases, labels = _cases(60)
    cases["scanner"] = ["GE"] * (ENOUGH + 5) + ["SIEMENS"] * (ENOUGH - 1) + [""] * (60 - 2 * ENOUGH - 4)
    study = Study("1.0", "p0", [], [])
    matched = replace(match(labels, [study]), targets=cases[list(LABELS)].to_numpy())
    frame = validation_frame(cases, [], labels, matched, POINTS)
    scanner = frame[frame["group"] == "scanner"]
    assert set(scanner.loc[scanner["metric"] == "auc", "level"]) == {"GE"}
    members = cases["scanner"] == "GE"
    found = scanner[(scanner["metric"] == "auc") & (scanner["label"] == "subdural")].iloc[0]
    expected = roc_auc_score(cases.loc[members, "subdural"], cases.loc[members, "p_subdural"])
    assert found["value"] == pytest.approx(expected)
    assert (found["n"], found["patients"]) == (25, 13)
    counts = scanner[scanner["metric"] == "studies"].set_index("level")
    assert counts["value"].to_dict() == {"": 16, "GE": 25, "SIEMENS": 19}
    assert counts["note"].to_dict() == {"": "not in the headers", "GE": "", "SIEMENS": "fewer than 20 studies"}

    text = validation_report(frame)
    assert re.search(r"scanner: GE +25 +\d+ +0\.\d{3} \[", text)
    assert "too few studies, or not known: scanner not in the headers 16, scanner SIEMENS 19" in text
    # every number that is printed is one of the table's: another table prints another number
    changed = frame.assign(value=np.where(frame["metric"] == "auc", 0.123456, frame["value"]))
    assert "0.123 [" in validation_report(changed)


def test_no_patient_id_is_no_common_patient() -> None:
    cases, labels = _cases(40)
    matched = match(labels, [Study("1.0", "p0", [], [])])
    frame = validation_frame(cases.assign(PatientID=""), [], labels, matched, POINTS)
    whole = frame[(frame["group"] == "all") & (frame["metric"] == "auc")]
    assert whole["patients"].tolist() == [40] * 6
