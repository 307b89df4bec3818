"""What a radiologist says, as labels that a validation takes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.errors import UserError
from src.files.study_labels import read_study_labels
from src.labels import LABELS
from src.viewer.readings import COLUMNS, FILE, Reading, Readings, values_of
from tests.study.conftest import Head
from tests.viewer.conftest import Served

CALLS = {"any": True, "epidural": None, "intraparenchymal": False} | dict.fromkeys(LABELS[3:], False)


@pytest.mark.parametrize(
    ("answers", "values", "disagreed"),
    [
        ({}, {}, []),
        ({"any": "agree"}, {"any": True}, []),
        ({"any": "disagree"}, {"any": False}, ["any"]),
        ({"any": "agree", "subdural": "disagree"}, {"any": True, "subdural": True}, ["subdural"]),
        ({"epidural": "absent", "subdural": "agree"}, {"epidural": False, "subdural": False}, []),
        ({"epidural": "present", "any": "present"}, {"epidural": True, "any": True}, []),
        ({"any": ""}, {}, []),
    ],
)
def test_agreement_is_a_label(answers: dict[str, str], values: dict[str, bool], disagreed: list[str]) -> None:
    assert values_of(answers, CALLS) == (dict.fromkeys(LABELS) | values, disagreed)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"epidural": "agree"}, "the detector makes no call to agree with"),
        ({"any": "disagree", "subdural": "disagree"}, "no hemorrhage at all"),
        ({"any": "maybe"}, "any: maybe"),
        ({"stroke": "present"}, "stroke: present"),
    ],
)
def test_what_contradicts_itself_is_refused(answers: dict[str, str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        values_of(answers, CALLS)


def _reading(series: str, **values: bool) -> Reading:
    return Reading(series, "1.2", dict.fromkeys(LABELS) | values, (), 'a "note", =1', "2026-11-27T12:00:00Z", "f" * 64)


def test_the_last_reading_counts_and_those_of_other_runs_stay(tmp_path: Path) -> None:
    path = tmp_path / FILE
    first = Readings(path)
    first.put(_reading("1.2.1", any=True))
    second = Readings(path)
    assert second.get("1.2.1")["any"] == "1"
    second.put(_reading("1.2.2", any=False, subdural=False))
    first.put(_reading("1.2.1", any=False))
    labels = read_study_labels(path)
    assert (labels.kind, list(labels.ids)) == ("SeriesInstanceUID", ["1.2.1", "1.2.2"])
    np.testing.assert_array_equal(labels.values[:, 0], [0, 0])
    np.testing.assert_array_equal(labels.values[1], [0, np.nan, np.nan, np.nan, np.nan, 0])
    assert pd.read_csv(path)["note"].tolist() == ['a "note", =1'] * 2
    assert first.as_csv() == path.read_text()
    path.write_text("name,age\n")
    with pytest.raises(UserError, match="other columns than readings"):
        Readings(path)


def test_readings_are_labels_for_a_validation(
    serve: Callable[..., Served], write_head: Head, tmp_path: Path, repository: Path, python: str, detector_folder: Path
) -> None:
    for i in range(2):
        write_head(tmp_path / "in" / str(i), 12, patient=f"P{i}", study=f"1.2.{i}", series=f"1.2.{i}.1")
    served = serve(tmp_path / "kept")
    served.room.add("in", [tmp_path / "in"])
    told = served.wait_until_read()
    expected = {}
    for study, answer in zip(told["studies"], ("agree", "disagree"), strict=True):
        (each,) = study["series"]
        body = {"labels": {"any": answer, "epidural": "absent"}, "note": " two\nlines "}
        if answer == "disagree" or not each["calls"][0]:
            body["labels"] |= {"any": "present"}
        done = served.client.put(f"/api/series/{each['id']}/reading", json=body)
        assert done.status_code == 200, done.text
        expected[study["patient"]] = 1.0
        assert (
            'value="absent" aria-label="Epidural: absent" checked'
            in served.client.get(f"/api/series/{each['id']}").text
        )
    assert all(each["reading"] for study in served.told()["studies"] for each in study["series"])
    path = tmp_path / "kept" / FILE
    assert served.client.get("/api/readings.csv").text == path.read_text()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert table["note"].tolist() == ["two lines"] * 2
    command = [python, "-m", "src.study.validate", str(tmp_path / "in"), "--labels", str(path), "--engine", "serial"]
    command += ["--detector", str(detector_folder), "--output", str(tmp_path / "validation"), "--no-maps"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "labels: 2 ids, 0 match no study" in done.stdout
    cases = pd.read_csv(tmp_path / "validation" / "validation_cases.csv")
    assert len(cases) == 2


def test_readings_that_cannot_be_are_refused(served: Served, write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "in", 12, SeriesInstanceUID="")
    write_head(tmp_path / "in2", 12, study="1.2.9")
    served.room.add("in", [tmp_path / "in"])
    served.room.add("in2", [tmp_path / "in2"])
    told = served.wait_until_read()
    named = {bool(served.room.series(e["id"]).scan.uid): e["id"] for s in told["studies"] for e in s["series"]}
    put = served.client.put
    answer = put(f"/api/series/{named[False]}/reading", json={"labels": {}, "note": ""})
    assert (answer.status_code, "no SeriesInstanceUID" in answer.json()["error"]) == (409, True)
    place = f"/api/series/{named[True]}/reading"
    for body in (b"", b"[]", b"{}", b'{"labels": 3, "note": ""}', b'{"labels": {"any": 1}, "note": ""}', b"[" * 5000):
        assert put(place, content=body).status_code == 422, body
    assert put(place, content=json.dumps({"labels": {}, "note": "x" * 2001})).status_code == 422
    assert put(place, json={"labels": {"any": "maybe"}, "note": ""}).status_code == 422
    # half of a pair of UTF-16 is valid JSON, and no text that could be written
    surrogate = put(place, content=b'{"labels": {}, "note": "\\ud800"}')
    assert surrogate.status_code == 422
    assert put("/api/series/none/reading", json={"labels": {}, "note": ""}).status_code == 404
    assert served.client.get("/api/readings.csv").text == ",".join(COLUMNS) + "\n"
