"""DICOM results to a server, such as a PACS: C-STORE (PS3.4 B), an association for all objects.

What a server has stored is recorded beside the objects, so that a second run sends only what is missing there.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE, Association, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import, from the standard's list
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom.status import STATUS_SUCCESS, STATUS_WARNING, STORAGE_SERVICE_CLASS_STATUS, code_to_category

from src.errors import UserError, shortened
from src.files.atomic import replacing
from src.study.results import Row

SENT = "sent.json"  # in a scan's folder: the objects that each server has stored
CALLING_TITLE = "ICH"

_CONNECT_S, _ANSWER_S = 10, 60
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5 6.2, AE: no backslash, nothing that is not ASCII


@dataclass(frozen=True)
class Server:
    """Where to send objects, and in whose name."""

    host: str
    port: int
    title: str
    calling_title: str = CALLING_TITLE

    def __post_init__(self) -> None:
        """Refuse titles that no association can name."""
        for title in (self.title, self.calling_title):
            if not _TITLE.fullmatch(title) or not title.strip():
                raise UserError(f"AE title {title!r}: expected 1 to 16 ASCII characters, not all blank, no backslash")

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Sent:
    """What became of an object: whether the server has stored it, and its answer in words."""

    path: Path
    stored: bool
    answer: str


def server_address(text: str) -> tuple[str, int]:
    """HOST:PORT as (host, port), as an argparse type; an IPv6 host in brackets."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(text)
    return host, int(port)


server_address.__name__ = "HOST:PORT"  # argparse names it in its error


def due_objects(rows: Sequence[Row], output: Path, server: Server, *, again: bool = False) -> list[Path]:
    """The DICOM results of all scans that were read, without those that the server has stored. again: all of them."""
    due = []
    for row in rows:
        folder = output / row.folder
        known = set() if again else set(_record(folder).get(str(server), []))
        due += [folder / name for name in (row.summary or {}).get("dicom", {}).get("files", []) if name not in known]
    return due


def send(server: Server, files: Sequence[Path], output: Path) -> Iterator[Sent]:
    """Send objects in scans' folders below `output`: what became of each, as soon as it is known.

    Raises UserError where no association can be made; an object that is not stored stops no other.
    """
    entity = AE(ae_title=server.calling_title)
    entity.connection_timeout, entity.acse_timeout = _CONNECT_S, _ANSWER_S
    entity.dimse_timeout = entity.network_timeout = _ANSWER_S
    for kind in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_requested_context(kind)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what it logs is told below, in one line
    connected: list[evt.Event] = []
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, connected.append)]
    association = entity.associate(server.host, server.port, ae_title=server.title, evt_handlers=handlers)
    if not association.is_established:
        why = _why_not(association) if connected else "cannot be connected to; expected a DICOM server there"
        raise UserError(f"{server}: {why}; nothing was sent")
    try:
        for path in files:
            sent = _store(association, path)
            if sent.stored:
                _remember(server, path, output)
            yield sent
    finally:
        if association.is_established:
            association.release()


def _why_not(association: Association) -> str:
    """Why there is no association, in words."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = "" if answer is None else f": {answer.reason_str}"
        return f"the server refuses the association{reason}"
    accepted = association.acceptor.primitive
    if accepted is not None and accepted.result == 0:  # pynetdicom aborts where no context is left
        return "the server accepts neither structured reports nor secondary captures"
    return f"the server ended the connection, or gave no answer within {_ANSWER_S} s"


def _store(association: Association, path: Path) -> Sent:
    if not association.is_established:
        return Sent(path, False, "not sent: the connection was lost")
    try:
        answer = association.send_c_store(path)
    except ValueError as error:
        refused = "No presentation context" in str(error) or "accepted" in str(error)
        kind = "the server accepts no objects of this kind" if refused else shortened(error)
        return Sent(path, False, kind)
    except RuntimeError as error:
        return Sent(path, False, shortened(error))
    if "Status" not in answer:
        association.abort()  # so that no other object waits for an answer too
        return Sent(path, False, f"no answer within {_ANSWER_S} s, or the connection was lost")
    status = int(answer.Status)
    if code_to_category(status) == STATUS_SUCCESS:
        return Sent(path, True, "stored")
    words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "a status that the standard does not name"))[1]
    comment = str(answer.get("ErrorComment", ""))
    told = f"status 0x{status:04X}, {words or 'no reason'}" + (f": {shortened(comment)}" if comment else "")
    if code_to_category(status) == STATUS_WARNING:
        return Sent(path, True, f"stored, with a warning: {told}")
    return Sent(path, False, told)


def _record(folder: Path) -> dict[str, list[str]]:
    """What each server has stored of a folder; nothing where the record is missing or damaged: it is sent again."""
    try:
        found = json.loads((folder / SENT).read_text(encoding="utf-8"))
        return {str(server): [str(name) for name in names] for server, names in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _remember(server: Server, path: Path, output: Path) -> None:
    folder = output / path.relative_to(output).parts[0]
    record = _record(folder)
    record[str(server)] = sorted({*record.get(str(server), []), path.relative_to(folder).as_posix()})
    with replacing(folder / SENT) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
