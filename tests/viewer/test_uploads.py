"""Uploads within limits: names, sizes, numbers, time, the disk and zips that lie."""

import asyncio
import errno
import io
import struct
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.viewer.app import FILES
from src.viewer.archive_size import directory_size
from src.viewer.store import Store
from src.viewer.uploads import Limits, Refused, Uploads
from tests.study.conftest import Head
from tests.viewer.conftest import Served

Serve = Callable[..., Served]


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for each in chunks:
        yield each


def _receive(uploads: Uploads, upload: str, name: str, *chunks: bytes, length: int | None = None) -> None:
    asyncio.run(uploads.receive(upload, name, _chunks(*chunks), length))


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.one_of(st.text(max_size=80), st.from_regex(r"\A(/|\\|\.\.?|%2e|%2f|%00|a)+\Z")), encoded=st.booleans())
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str, encoded: bool) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits())
    upload = uploads.open()
    _receive(uploads, upload.id, quote(name, safe="") if encoded else name, b"data")
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert path.resolve().is_relative_to(upload.folder)
    assert path.relative_to(upload.folder).parts == ("00000", "000001")
    assert path.read_bytes() == b"data"
    uploads.abort(upload.id)
    assert list(tmp_path.iterdir()) == []


def test_files_of_different_folders_stay_apart(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits())
    upload = uploads.open()
    for name in ("a/1", "b/1", "a/2", "../b/1", "a/1"):
        _receive(uploads, upload.id, quote(name), name.encode())
    places = {name: path.parent.name for path, name in upload.names.items()}
    assert places["a/1"] == places["a/2"] != places["b/1"]
    assert sorted(path.read_bytes() for path in upload.names) == [b"../b/1", b"a/1", b"a/1", b"a/2", b"b/1"]


def test_sizes_and_numbers_are_limited(serve: Serve) -> None:
    served = serve(file_bytes=1000, upload_bytes=1500, files=1)
    client, upload = served.client, served.client.post("/api/uploads").json()["id"]
    place = f"{FILES}{upload}/files"
    assert client.post(place, content=b"x" * 1001).status_code == 413  # by what it states
    assert client.post(place, content=iter([b"x" * 600, b"x" * 600])).status_code == 413  # by what comes
    assert [path for path in served.folder.rglob("*") if path.is_file()] == []
    assert client.post(place, content=b"x" * 900).status_code == 200
    answer = client.post(place, content=b"x")
    assert (answer.status_code, answer.json()["error"][:17]) == (413, "more than 1 files")


def test_all_files_of_an_upload_count_together(serve: Serve) -> None:
    served = serve(file_bytes=1000, upload_bytes=1500)
    place = f"{FILES}{served.client.post('/api/uploads').json()['id']}/files"
    assert served.client.post(place, content=b"x" * 900).status_code == 200
    answer = served.client.post(place, content=b"x" * 700)
    assert answer.status_code == 413
    assert "at once" in answer.json()["error"]
    assert served.client.post(place, content=b"x" * 600).status_code == 200  # what was refused does not count


def test_what_was_refused_in_the_middle_does_not_count(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits(file_bytes=1000, upload_bytes=1500))
    upload = uploads.open()
    with pytest.raises(Refused, match="a file of more than"):
        _receive(uploads, upload.id, "a", b"x" * 600, b"x" * 600)
    _receive(uploads, upload.id, "a", b"x" * 500, b"x" * 500)
    _receive(uploads, upload.id, "b", b"x" * 500)
    assert upload.size == 1500


def test_an_upload_is_taken_out_once_whoever_asks_at_once(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits())
    for _ in range(50):
        upload, start, ends = uploads.open(), threading.Barrier(3), []
        _receive(uploads, upload.id, "a", b"data")

        def finish(upload_id: str = upload.id, start: threading.Barrier = start, ends: list[str] = ends) -> None:
            start.wait()
            try:
                ends.append(uploads.finish(upload_id).id)
            except Refused as error:
                ends.append(str(error.status))

        askers = [threading.Thread(target=finish) for _ in range(3)]
        for each in askers:
            each.start()
        for each in askers:
            each.join()
        assert sorted(ends) == sorted(["404", "404", upload.id])
        with pytest.raises(Refused, match="this upload has ended"):
            _receive(uploads, upload.id, "b", b"more")


def test_an_upload_that_was_given_up_is_removed_after_a_time(tmp_path: Path) -> None:
    now = [0.0]
    uploads = Uploads(Store(tmp_path, min_free=0), Limits(open_uploads=2, idle_s=60), clock=lambda: now[0])
    first, second = uploads.open(), uploads.open()
    _receive(uploads, first.id, "a", b"data")
    with pytest.raises(Refused, match="2 uploads are under way") as refused:
        uploads.open()
    assert refused.value.status == 429
    now[0] = 50
    _receive(uploads, second.id, "b", b"data")
    now[0] = 70  # the first has said nothing for 70 seconds, the second for 20
    third = uploads.open()
    assert {each.name for each in tmp_path.iterdir()} == {second.folder.name, third.folder.name}
    with pytest.raises(Refused, match="has ended"):
        _receive(uploads, first.id, "a", b"data")


def test_the_sweeper_needs_no_request(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits(idle_s=0.05))
    uploads.start(0.02)
    upload = uploads.open()
    for _ in range(200):
        if not upload.folder.exists():
            break
        asyncio.run(asyncio.sleep(0.02))
    uploads.close()
    assert not upload.folder.exists()


def test_a_file_that_stops_in_the_middle_is_given_up(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits(chunk_s=0.05))
    upload = uploads.open()

    async def slow() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.sleep(5)
        yield b"more"

    with pytest.raises(Refused, match="nothing came") as refused:
        asyncio.run(uploads.receive(upload.id, "a", slow(), None))
    assert refused.value.status == 408
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(Refused, match="no files"):
        uploads.finish(upload.id)


def test_a_browser_that_goes_away_leaves_no_file(tmp_path: Path) -> None:
    uploads = Uploads(Store(tmp_path, min_free=0), Limits())
    upload = uploads.open()

    async def gone() -> AsyncIterator[bytes]:
        yield b"some"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(uploads.receive(upload.id, "a", gone(), None))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    _receive(uploads, upload.id, "a", b"again")
    assert list(uploads.finish(upload.id).names.values()) == ["a"]


def test_a_full_disk_is_said_to_be(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(min_free=1 << 60)
    place = f"{FILES}{served.client.post('/api/uploads').json()['id']}/files"
    answer = served.client.post(place, content=b"data")
    assert answer.status_code == 507
    assert "no room" in answer.json()["error"]
    served = serve()
    place = f"{FILES}{served.client.post('/api/uploads').json()['id']}/files"

    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Uploads, "_write", full)
    answer = served.client.post(place, content=b"data")
    assert answer.status_code == 507
    assert "remove studies" in answer.json()["error"]


def test_a_zip_may_not_inflate_without_end(serve: Serve) -> None:
    served = serve(inflated_bytes=1 << 20, members=3, directory_bytes=2000)
    place = f"{FILES}{served.client.post('/api/uploads').json()['id']}/files"
    bomb = _zip({"a": bytes(1 << 21)})
    assert len(bomb) < 10_000
    for data, why in (
        (bomb, "inflates to more than 1 MB"),
        (_zip({str(i): b"" for i in range(4)}), "more than 3 files"),
        (_zip({f"{'n' * 1000}{i}": b"" for i in range(3)}), "a directory of"),
    ):
        answer = served.client.post(place, content=data, headers={"X-File-Name": "cd.zip"})
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"].startswith("cd.zip: a zip")
        assert why in answer.json()["error"]
    assert served.client.post(place, content=_zip({"a": b"x"})).status_code == 200


def test_the_size_of_a_directory_is_known_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(_zip({"abc": b"x" * 10}))
    assert directory_size(path) == 46 + 3  # APPNOTE.TXT 4.3.12
    path.write_bytes(b"no zip")
    assert directory_size(path) == 0
    # a zip64 record counts, as it does for zipfile (4.3.14)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    path.write_bytes(record + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 49, 0, 0))
    assert directory_size(path) == 1 << 40


def test_a_zip_bomb_of_slices_is_read_within_bounds(served: Served, write_head: Head, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_head(tmp_path / "head", 1)[0])
    dataset.Rows = dataset.Columns = 6000
    dataset.PixelData = bytes(2 * 6000 * 6000)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    bomb = _zip({"../../x.dcm": buffer.getvalue(), "/etc/passwd": b"text"})
    assert len(bomb) < 100_000
    served.upload({"bomb.zip": bomb})
    told = served.wait_until_read()
    (batch,) = told["batches"]
    assert (batch["status"], batch["files"], batch["passed_over"]) == ("done", 2, 1)
    assert batch["named"] == [{"name": "bomb.zip/etc/passwd", "why": "not dicom: no DICOM prefix"}]
    (study,) = told["studies"]
    assert study["series"] == []
    assert "1 objects that are no CT slices" in study["others"][0]["why"]
    assert str(served.folder) not in str(told)


def test_uploads_at_once_and_what_is_no_dicom(served: Served, write_head: Head, tmp_path: Path) -> None:
    heads = [write_head(tmp_path / str(i), 4, patient=f"P{i}", study=f"1.2.{i}", series=f"1.2.{i}.1") for i in range(2)]
    ids = [served.client.post("/api/uploads").json()["id"] for _ in heads]
    for files in zip(*heads, strict=True):  # by turns
        for upload, path in zip(ids, files, strict=True):
            answer = served.client.post(
                f"{FILES}{upload}/files", content=path.read_bytes(), headers={"X-File-Name": "IM"}
            )
            assert answer.status_code == 200
    served.client.post(
        f"{FILES}{ids[0]}/files", content=b"text", headers={"X-File-Name": quote("Doe Jane/read me.txt")}
    )
    for upload in ids:
        assert served.client.post(f"{FILES}{upload}/finish").status_code == 200
        assert served.client.post(f"{FILES}{upload}/finish").status_code == 404
    told = served.wait_until_read()
    assert sorted(study["patient"] for study in told["studies"]) == ["P0", "P1"]
    assert all(each["status"] == "read" for study in told["studies"] for each in study["series"])
    (passed,) = [each for batch in told["batches"] for each in batch["named"]]
    assert passed == {"name": "Doe Jane/read me.txt", "why": "not dicom: no DICOM prefix"}
    # what came is deleted when it is read; slices stay until the study is removed
    served.wait(lambda _: len(list(served.folder.iterdir())) == 2)
    for study in told["studies"]:
        assert served.client.delete(f"/api/entries/{study['id']}").status_code == 200
    assert list(served.folder.iterdir()) == []
