"""What happens to studies: found, shown before the networks are done, answered as in a run over files, cancelled."""

import json
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from src.detector import Detector
from src.detector.detector import Prediction
from src.dicom import find_series
from src.errors import UserError
from src.files.scratch import scratch_folder
from src.labels import LABELS
from src.progress import Watch, unwatched
from src.study import answer
from src.study.answer import Reader, answer_all
from src.study.choose import choose
from src.study.find import find_studies
from src.viewer import jobs
from src.viewer.store import Store
from tests.study.conftest import Head, head_hu
from tests.viewer.conftest import Served

Serve = Callable[..., Served]


@pytest.fixture
def heads(write_head: Head, tmp_path: Path) -> Path:
    """Three patients; the second has a bone kernel too, and there is a text."""
    for i in range(3):
        write_head(tmp_path / "in" / str(i), 12, patient=f"P{i}", study=f"1.2.{i}", series=f"1.2.{i}.1")
    bone = {"SeriesNumber": 3, "ConvolutionKernel": "H70h"}
    write_head(tmp_path / "in" / "bone", 12, patient="P1", study="1.2.1", series="1.2.1.2", **bone)
    (tmp_path / "in" / "note.txt").write_text("for the reader")
    return tmp_path / "in"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Networks that begin when the event is set."""
    event, real = threading.Event(), Detector.predict

    def waits(detector: Detector, series: object, *, watch: Watch = unwatched) -> Prediction:
        for _ in range(1000):
            watch(0, 1)  # which ends what is cancelled
            if event.wait(0.02):
                break
        return real(detector, series, watch=watch)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "predict", waits)
    yield event
    event.set()


def _pixels(packed: bytes, rows: int, columns: int) -> np.ndarray:
    """Unpack a slice by what codec.py's docstring says of it."""
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, rows, columns).astype(np.uint16)
    zigzag = planes[0] | planes[1] << 8
    differences = (zigzag >> 1) ^ (0 - (zigzag & 1)).astype(np.uint16)
    return np.cumsum(differences, axis=1, dtype=np.uint16).view(np.int16)


def test_the_list_says_what_a_run_over_files_would(serve: Serve, heads: Path, reader: Reader, tmp_path: Path) -> None:
    served = serve(tmp_path / "kept")
    served.room.add("in", [heads])
    told = served.wait_until_read()
    values = [study["series"][0]["probabilities"][0] for study in told["studies"]]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    (of_two,) = [study for study in told["studies"] if study["patient"] == "P1"]
    left = next(each for each in of_two["series"] if each["status"] == "not read")
    assert left["why"] == "the same scan as series 2, which is read: kernel H70h is for bone"
    assert told["batches"][0]["named"][0]["name"].endswith("note.txt")

    found = find_studies([heads], engine="serial", shown=False)
    choices = [choice for study in found.studies for choice in choose(study, gap_mm=reader.gap_mm)]
    answer_all(reader, choices, tmp_path / "expected")
    for folder in (tmp_path / "expected").iterdir():
        for name in ("predictions.csv", "summary.json", "series.html"):
            assert (tmp_path / "kept" / folder.name / name).read_bytes() == (folder / name).read_bytes(), name
    work = pd.read_csv(tmp_path / "kept" / "worklist.csv")
    assert work["status"].tolist() == ["read"] * 3 + ["not read"]
    np.testing.assert_allclose(work["any"][:3], values)


def test_slices_can_be_seen_before_the_networks_are_done(
    served: Served, write_head: Head, tmp_path: Path, held: threading.Event
) -> None:
    files = write_head(tmp_path / "head", 12)
    served.room.add("in", [tmp_path / "head"])
    told = served.wait(lambda told: told["studies"] and told["studies"][0]["series"][0]["viewable"])
    (each,) = told["studies"][0]["series"]
    assert each["probabilities"] is None
    (series,), _ = find_series(files)
    for index, expected in enumerate(head_hu(12)):  # of the whole range
        packed = served.client.get(f"/api/series/{each['id']}/slice/{index}")
        assert packed.headers["cache-control"] == "no-store"
        np.testing.assert_array_equal(_pixels(packed.content, *expected.shape), expected)
    page = served.client.get(f"/api/series/{each['id']}").text
    assert "Probabilities are being computed." in page
    assert "<fieldset disabled>" in page
    for path in ("slice/12", "slice/-1", "slice/x", "map/0", "nothing/0"):
        assert served.client.get(f"/api/series/{each['id']}/{path}").status_code in (404, 422)
    held.set()
    told = served.wait_until_read()
    (each,) = told["studies"][0]["series"]
    np.testing.assert_allclose(each["probabilities"], served.room.reader.detector(series).max(axis=0))
    page = served.client.get(f"/api/series/{each['id']}").text
    assert "being computed" not in page
    assert "Doe" not in page
    maps = zlib.decompress(served.client.get(f"/api/series/{each['id']}/map/3").content)
    expected = served.room.reader.detector.activation_maps(series)[3]
    np.testing.assert_array_equal(np.frombuffer(maps, np.uint8).reshape(expected.shape), np.rint(255 * expected))


def test_the_thumbnail_is_the_most_suspicious_slice(served: Served, write_head: Head, tmp_path: Path) -> None:
    files = write_head(tmp_path / "head", 12)
    served.room.add("in", [tmp_path / "head"])
    (each,) = served.wait_until_read()["studies"][0]["series"]
    data = np.frombuffer(served.client.get(f"/api/series/{each['id']}/thumbnail").content, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    (series,), _ = find_series(files)
    hu = series.pixels[int(served.room.reader.detector(series)[:, 0].argmax())].astype(np.float32)
    grey = np.clip(hu / 80, 0, 1) * 255  # level 40, width 80
    expected = cv2.resize(np.rint(grey).astype(np.uint8), (112, 112), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(image, expected)


def test_a_study_is_cancelled_while_it_is_computed_and_the_next_one_is_read(
    served: Served, heads: Path, held: threading.Event
) -> None:
    served.room.add("in", [heads])
    told = served.wait(lambda told: [e for s in told["studies"] for e in s["series"] if e["status"] == "computing"])
    (study,) = [s for s in told["studies"] for e in s["series"] if e["status"] == "computing"]
    assert study["unfinished"]
    assert served.client.post(f"/api/entries/{study['id']}/cancel").status_code == 200
    served.wait(lambda told: [e for s in told["studies"] for e in s["series"] if e["status"] == "cancelled"])
    held.set()
    told = served.wait_until_read()
    statuses = sorted(s["series"][0]["status"] for s in told["studies"])
    assert statuses == ["cancelled", "read", "read"]
    assert served.client.post("/api/entries/none/cancel").status_code == 404


def test_a_cancelled_batch_ends_and_one_that_waits_never_begins(
    served: Served, heads: Path, held: threading.Event
) -> None:
    first = served.room.add("first", [heads])
    second = served.room.add("second", [heads])
    served.wait(lambda told: [e for s in told["studies"] for e in s["series"] if e["status"] == "computing"])
    for batch in (first, second):
        assert served.client.post(f"/api/entries/{batch.id}/cancel").status_code == 200
    told = served.wait_until_read()
    assert [batch["status"] for batch in told["batches"]] == ["cancelled", "cancelled"]
    assert len(told["studies"]) == 3  # of the first
    assert {s["series"][0]["status"] for s in told["studies"]} == {"cancelled"}
    assert served.client.delete(f"/api/entries/{second.id}").status_code == 200
    assert len(served.told()["batches"]) == 1


def test_what_is_no_head_is_refused_and_what_is_missing_fails(served: Served, tmp_path: Path, write_head: Head) -> None:
    write_head(tmp_path / "in", 12, series="1.2.3.1")
    for path in (tmp_path / "in").iterdir():
        data = bytearray(path.read_bytes())
        data[-2 * 96 * 96 :] = bytes(2 * 96 * 96)  # water everywhere
        path.write_bytes(data)
    served.room.add("in", [tmp_path / "in"])
    served.room.add("nowhere", [tmp_path / "nowhere"])
    told = served.wait_until_read()
    (each,) = told["studies"][0]["series"]
    assert each["status"] == "refused"
    assert each["why"].startswith("not a head CT that can be judged")
    assert each["viewable"]  # one may look for oneself
    assert [batch["status"] for batch in told["batches"]] == ["done", "failed"]
    assert "is missing" in told["batches"][1]["message"]


def test_a_full_disk_and_a_giant_fail_alone(
    serve: Serve, heads: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = serve()
    monkeypatch.setattr(served.room._store, "min_free", 1 << 60)
    served.room.add("in", [heads])
    told = served.wait_until_read()
    assert {s["series"][0]["status"] for s in told["studies"]} == {"failed"}
    assert all("no room in the temporary folder" in s["series"][0]["why"] for s in told["studies"])
    monkeypatch.setattr(served.room._store, "min_free", 0)
    monkeypatch.setattr(jobs, "MOST_SCAN_BYTES", 12 * 96 * 96 * 2 - 1)
    served.room.add("in", [heads / "0"])
    told = served.wait(lambda told: len(told["batches"]) == 2 and told["batches"][1]["status"] == "done")
    assert any("this page reads series of up to" in e["why"] for s in told["studies"] for e in s["series"])


def test_results_that_cannot_be_written_are_shown_all_the_same(
    serve: Serve, write_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_head(tmp_path / "in", 12)
    served = serve(tmp_path / "kept")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answer, "write_result", full)
    served.room.add("in", [tmp_path / "in"])
    (each,) = served.wait_until_read()["studies"][0]["series"]
    assert each["status"] == "read"
    assert "could not be written: [Errno 28]" in each["why"]


def test_the_queue_has_an_end(
    served: Served, heads: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST_WAITING", 1)
    served.room.add("in", [heads])
    served.wait(lambda told: told["batches"][0]["status"] == "reading")
    served.room.add("in", [heads])
    with pytest.raises(UserError, match="wait to be read"):
        served.room.add("in", [heads])
    upload = served.client.post("/api/uploads").json()["id"]
    served.client.post(f"/api/uploads/{upload}/files", content=b"x")
    assert served.client.post(f"/api/uploads/{upload}/finish").status_code == 429
    assert len([path for path in served.folder.iterdir() if not (path / "slices").exists()]) == 0


def test_what_has_not_changed_is_not_sent_again(served: Served, write_head: Head, tmp_path: Path) -> None:
    version = served.told()["version"]
    assert served.client.get("/api/worklist", params={"since": version}).status_code == 204
    write_head(tmp_path / "in", 3)
    served.room.add("in", [tmp_path / "in"])
    assert served.client.get("/api/worklist", params={"since": version}).status_code == 200


def test_slices_are_kept_one_by_one_and_ids_tell_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(-1024, 3072, shape, dtype=np.int16) for shape in ((3, 5), (4, 2), (1, 1))]
    kept = Store(tmp_path, min_free=0).keep("a", pixels)
    for i, expected in enumerate(pixels):
        np.testing.assert_array_equal(kept.slice(i), expected)
    with pytest.raises(IndexError):
        kept.slice(3)
    kept.remove()
    with pytest.raises(OSError, match="slices"):
        kept.slice(0)
    assert scratch_folder().stat().st_mode & 0o077 == 0  # other users of the machine see nothing
    shutil.rmtree(tmp_path)


def test_no_address_and_no_log_names_a_patient(
    serve: Serve, write_head: Head, tmp_path: Path, caplog: pytest.LogCaptureFixture, reader: Reader
) -> None:
    write_head(tmp_path / "in", 12, patient="MRN-4711")
    served = serve(reader=replace(reader))
    served.room.add("in", [tmp_path / "in"])
    told = served.wait_until_read()
    ids = [told["studies"][0]["id"], told["studies"][0]["series"][0]["id"]]
    assert not any(part in each for each in ids for part in ("4711", "1.2.3"))
    assert "4711" not in caplog.text
    assert "Doe" not in json.dumps(told)
    assert len(told["studies"][0]["series"][0]["probabilities"]) == len(LABELS)
