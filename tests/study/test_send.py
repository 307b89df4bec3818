import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pynetdicom import AE, evt

from src.dicom.description import describe
from src.dicom.key_image import write_key_image
from src.dicom.report import LabelResult, write_report
from src.dicom.results import About, Maker, read_subject
from src.errors import UserError
from src.labels import LABELS
from src.study import infer
from src.study.results import Row
from src.study.send import SENT, Server, due_objects, send, server_address
from tests.study.conftest import Head

REPORT_CLASS, IMAGE_CLASS, CT_CLASS = (
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.2",
)
NAMES = ["key_images/01.dcm", "report.dcm"]


@pytest.fixture(scope="module")
def results(write_head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one scan's DICOM results, made without a detector. Not to be changed."""
    top = tmp_path_factory.mktemp("results")
    (first,) = describe(str(write_head(top / "in", 1)[0]))
    maker = Maker("test", "1", "0" * 64)
    about = About(read_subject(first.source), first.study, first.series, "2", maker)
    found = [LabelResult(label, 0.5, None, None, [first]) for label in LABELS]
    (top / "out" / "1.2.3" / "key_images").mkdir(parents=True)
    (top / "out" / "1.2.3" / "report.dcm").write_bytes(write_report(about, found, ["none"], "Test."))
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    (top / "out" / "1.2.3" / NAMES[0]).write_bytes(write_key_image(about, picture, first, 1, "x"))
    return top / "out"


@pytest.fixture
def output(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "out"))


@pytest.fixture
def rows() -> list[Row]:
    summary = {"dicom": {"files": NAMES, "why": ""}}
    return [
        Row("P", "1", "1.2.3", "2", "read", "", summary, "1.2.3"),
        Row("P", "1", "1.2.4", "3", "not read", "bone", None, ""),
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _server(classes: list[str], status: int = 0, title: str = "PACS") -> Iterator[tuple[Server, list[str]]]:
    """A server of some kinds of objects that answers all with one status: (its address, UIDs that came)."""
    came: list[str] = []

    def store(event: evt.Event) -> int:
        came.append(event.request.AffectedSOPInstanceUID)
        return status

    entity = AE(ae_title=title)
    entity.require_called_aet = True
    for each in classes:
        entity.add_supported_context(each)
    running = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield Server("127.0.0.1", running.server_address[1], "PACS"), came
    finally:
        running.shutdown()


@contextmanager
def _storescp(folder: Path) -> Iterator[Server]:
    """DCMTK's server, which writes what it gets into a folder."""
    program = shutil.which("storescp")
    if program is None:
        pytest.skip("no storescp (Debian: dcmtk), a DICOM server")
    folder.mkdir()
    port = _free_port()
    running = subprocess.Popen(
        [program, "--output-directory", str(folder), "--aetitle", "STORE", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Server("127.0.0.1", port, "STORE")
    finally:
        running.terminate()
        running.wait(10)


def test_a_real_server_gets_what_was_written(output: Path, rows: list[Row], tmp_path: Path) -> None:
    with _storescp(tmp_path / "stored") as server:
        files = due_objects(rows, output, server)
        assert [path.relative_to(output / "1.2.3").as_posix() for path in files] == NAMES
        assert [(sent.path, sent.stored, sent.answer) for sent in send(server, files, output)] == [
            (path, True, "stored") for path in files
        ]
    fetched = {found.SOPInstanceUID: found for found in map(pydicom.dcmread, (tmp_path / "stored").iterdir())}
    assert len(fetched) == 2
    for path in files:
        written = pydicom.dcmread(path)
        assert fetched[written.SOPInstanceUID] == written
    # a second run has nothing to do for this server, but for another one, or when asked
    assert due_objects(rows, output, server) == []
    assert due_objects(rows, output, server, again=True) == files
    assert due_objects(rows, output, Server(server.host, server.port, "OTHER")) == files


def test_what_is_not_stored_is_told_and_sent_again(output: Path, rows: list[Row]) -> None:
    with _server([REPORT_CLASS, IMAGE_CLASS], status=0xA700) as (server, came):
        sent = list(send(server, due_objects(rows, output, server), output))
    assert len(came) == 2
    assert [each.stored for each in sent] == [False, False]
    assert sent[0].answer.startswith("status 0xA700, ")
    assert not (output / "1.2.3" / SENT).exists()
    assert len(due_objects(rows, output, server)) == 2


def test_a_warning_is_no_failure(output: Path, rows: list[Row]) -> None:
    with _server([REPORT_CLASS, IMAGE_CLASS], status=0xB000) as (server, _):
        sent = list(send(server, due_objects(rows, output, server), output))
    assert [each.stored for each in sent] == [True, True]
    assert sent[0].answer.startswith("stored, with a warning: status 0xB000")


def test_a_kind_that_the_server_does_not_take_stops_no_other(output: Path, rows: list[Row]) -> None:
    with _server([IMAGE_CLASS]) as (server, came):
        sent = list(send(server, due_objects(rows, output, server), output))
    assert [each.answer for each in sent] == ["stored", "the server accepts no objects of this kind"]
    assert len(came) == 1
    assert [path.name for path in due_objects(rows, output, server)] == ["report.dcm"]


def test_a_connection_that_is_lost_is_told_for_each(
    output: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(event: evt.Event) -> int:
        event.assoc.dul.socket.close()
        return 0

    entity = AE(ae_title="PACS")
    for each in (REPORT_CLASS, IMAGE_CLASS):
        entity.add_supported_context(each)
    running = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, drop)])
    monkeypatch.setattr("src.study.send._ANSWER_S", 2)
    try:
        server = Server("127.0.0.1", running.server_address[1], "PACS")
        sent = list(send(server, due_objects(rows, output, server), output))
    finally:
        running.shutdown()
    assert [each.stored for each in sent] == [False, False]
    assert "connection was lost" in sent[0].answer
    assert sent[1].answer == "not sent: the connection was lost"


def test_no_association_is_one_line(
    output: Path, rows: list[Row], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(server: Server, words: str) -> None:
        with pytest.raises(UserError, match=words):
            list(send(server, due_objects(rows, output, server), output))

    with _server([REPORT_CLASS], title="OTHER") as (server, _):
        fails(server, f"PACS@127.0.0.1:{server.port}: the server refuses the association: Called AE title not recog")
    with _server([CT_CLASS]) as (server, _):
        fails(server, "the server accepts neither structured reports nor secondary captures; nothing was sent")
    fails(
        Server("127.0.0.1", _free_port(), "PACS"),
        "cannot be connected to; expected a DICOM server there; nothing was sent",
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("src.study.send._ANSWER_S", 0.2)
        fails(Server("127.0.0.1", silent.getsockname()[1], "PACS"), "or gave no answer within 0.2 s; nothing was sent")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"PACS@127.0.0.1:1": 3}'])
def test_a_damaged_record_sends_again(output: Path, rows: list[Row], damage: str) -> None:
    (output / "1.2.3" / SENT).write_text(damage)
    assert len(due_objects(rows, output, Server("127.0.0.1", 1, "PACS"))) == 2


def test_addresses() -> None:
    assert server_address("pacs.example:104") == ("pacs.example", 104)
    assert server_address("[::1]:11112") == ("::1", 11112)
    for text in ("pacs", "pacs:", ":104", "pacs:0", "pacs:70000", "pacs:x"):
        with pytest.raises(ValueError, match=text):
            server_address(text)
    for title in ("", " ", "A" * 17, "A\\B", "\u00c4"):
        with pytest.raises(UserError, match="AE title"):
            Server("h", 1, title)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--send", "pacs:104", "--aet", "X"], "--send needs --dicom too"),
        (["--dicom", "--send", "pacs:104"], "--send needs --aet TITLE, the server's AE title, too"),
        (["--dicom", "--send", "pacs", "--aet", "X"], "argument --send: invalid HOST:PORT value: 'pacs'"),
        (["--dicom", "--aet", "X"], "--aet without --send: expected --send HOST:PORT too"),
        (["--dicom", "--resend"], "--resend without --send: expected --send HOST:PORT too"),
        (["--dicom", "--send", "pacs:104", "--aet", "X" * 17], "expected 1 to 16 ASCII characters"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["infer", "nowhere", *arguments])
    with pytest.raises(UserError) as raised:
        infer.main()
    assert words in str(raised.value)


def test_the_command_reads_writes_and_sends(
    write_head: Head,
    detector_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_head(tmp_path / "in" / "a")
    with pydicom.config.disable_value_validation():
        write_head(tmp_path / "in" / "b", study="ID_12", series="ID_34")

    def command(*more: str) -> str:
        given = [tmp_path / "in", "--detector", detector_folder, "--output", tmp_path / "out", "--engine", "serial"]
        monkeypatch.setattr(sys, "argv", ["infer", *map(str, given), "--dicom", *more])
        infer.main()
        return capsys.readouterr().out

    with _server([REPORT_CLASS, IMAGE_CLASS]) as (server, came):
        to = ("--send", f"127.0.0.1:{server.port}", "--aet", "PACS")
        said = command(*to)
        assert "no DICOM results of series 2: its StudyInstanceUID 'ID_12' is no UID" in said
        assert "1.2.3.1/report.dcm: stored\n" in said
        assert f"{server}: 6 of 6 objects stored\n" in said
        assert len(set(came)) == 6
        assert f"{server}: nothing to send that it has not stored\n" in command(*to)
        assert len(came) == 6
        command(*to, "--resend")
        assert len(came) == 12
    with _server([IMAGE_CLASS]) as (server, came):
        with pytest.raises(UserError, match="1 of 6 objects were not stored by PACS@"):
            command("--send", f"127.0.0.1:{server.port}", "--aet", "PACS")
        assert len(came) == 5
