"""What the page asks for: the list, slices, uploads, readings. Ids mean nothing outside this run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from src.ct.windows import THREE_WINDOWS, apply_windows
from src.errors import UserError, shortened
from src.labels import LABELS
from src.pages.codec import compressed_maps, compressed_pixels
from src.pages.html import content_security_policy, render
from src.pages.series import LABEL_NAMES
from src.viewer.entries import READ, SeriesEntry
from src.viewer.jobs import Room
from src.viewer.readings import MOST_NOTE, Reading, Readings, values_of
from src.viewer.uploads import Refused, Uploads

FILES = "/api/uploads/"  # the beginning of the paths to which files are sent
THUMBNAIL = 112  # pixels
_SCRIPTS = ("reading_room.js",)
_ALLOW = {"connect-src": "'self'", "img-src": "'self'"}


def make_app(room: Room, uploads: Uploads, readings: Readings) -> FastAPI:
    """The application, which trusts whoever asks it: see `security` for who may."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)
    _add_page(app, room, readings)
    _add_series(app, room)
    _add_uploads(app, room, uploads)
    _add_readings(app, room, readings)
    return app


def _add_errors(app: FastAPI) -> None:
    def answers(kind: type[Exception], told: Callable[[Exception], tuple[int, str]]) -> None:
        async def handle(_: Request, error: Exception) -> Response:
            status, message = told(error)
            return JSONResponse({"error": message}, status)

        app.add_exception_handler(kind, handle)

    answers(Refused, lambda error: (getattr(error, "status", 400), str(error)))
    answers(UserError, lambda error: (422, str(error)))
    answers(KeyError, lambda _: (404, "it is not in the list any more"))


def _add_page(app: FastAPI, room: Room, readings: Readings) -> None:
    kept = str(room.output.absolute()) if room.output else ""
    page = render(
        "reading_room.html",
        scripts=_SCRIPTS,
        allow=_ALLOW,
        title="Reading room",
        labels=[LABEL_NAMES[label] for label in LABELS],
        output=kept,
    )
    policy = f"{content_security_policy(_SCRIPTS, _ALLOW)}; frame-ancestors 'none'"

    @app.get("/")
    def root() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/api/worklist")
    def worklist(since: int = -1) -> Response:
        return Response(status_code=204) if since == room.version else JSONResponse(room.told(readings.uids()))

    @app.post("/api/entries/{entry}/cancel")
    def cancel(entry: str) -> dict[str, Any]:
        room.cancel(entry)
        return {}

    @app.delete("/api/entries/{entry}")
    def remove(entry: str) -> dict[str, Any]:
        room.remove(entry)
        return {}

    @app.get("/api/series/{series}")
    def show(series: str) -> Response:
        each = room.series(series)
        if each.values is None:
            raise Refused(409, f"its slices cannot be shown: {each.why or each.status}")
        found = readings.get(each.scan.uid)
        form = {"labels": _asked(each, found), "note": (found or {}).get("note", ""), "read": each.status == READ}
        fragment = render(
            "reading_room_series.html", **each.values, form=form, has_uid=bool(each.scan.uid), output=kept
        )
        return HTMLResponse(fragment)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)


def _asked(each: SeriesEntry, found: dict[str, str] | None) -> list[dict[str, Any]]:
    """What the form asks for each label: its name, the detector's call, and the answer that was given before."""
    asked = []
    for label in LABELS:
        call, stored = each.call(label), (found or {}).get(label, "")
        answers = ("present", "absent") if call is None else ("agree", "disagree")
        given = "" if stored == "" else answers[(stored == "1") != (call is not False)]
        asked.append({"label": label, "name": LABEL_NAMES[label], "call": call, "answers": answers, "given": given})
    return asked


def _add_series(app: FastAPI, room: Room) -> None:
    def read(series: str, index: int, kind: str) -> np.ndarray:
        each = room.series(series)
        try:
            if each.kept is None:
                raise Refused(409, "its slices are not read yet")
            return each.kept.slice(index) if kind == "slice" else each.kept.maps(index)
        except (IndexError, OSError) as error:
            raise Refused(404, "there is no such slice") from error

    @app.get("/api/series/{series}/slice/{index}")
    def slice_of(series: str, index: int) -> Response:
        return Response(compressed_pixels(read(series, index, "slice")), media_type="application/octet-stream")

    @app.get("/api/series/{series}/map/{index}")
    def map_of(series: str, index: int) -> Response:
        return Response(compressed_maps(read(series, index, "map")), media_type="application/octet-stream")

    @app.get("/api/series/{series}/thumbnail")
    def thumbnail(series: str) -> Response:
        each = room.series(series)
        count = len(each.kept.shapes) if each.kept else 0
        first = (each.summary.get("most_suspicious") or [{"slice": count // 2 + 1}])[0]["slice"] - 1
        return Response(_thumbnail(read(series, first, "slice"), _spacing(each, first)), media_type="image/png")


def _spacing(each: SeriesEntry, index: int) -> tuple[float, float]:
    """mm between rows and between columns of a slice, or (1, 1) where that is not known."""
    found = (each.values or {})["series"]["slices"][index]["spacing"]
    return (found[0], found[1]) if found else (1.0, 1.0)


def _thumbnail(hu: np.ndarray, spacing: tuple[float, float]) -> bytes:
    """A small PNG of a slice in the brain window, in its true proportions: (rows, columns) HU, and mm."""
    grey = np.rint(255 * apply_windows(hu, THREE_WINDOWS[:1])[..., 0]).astype(np.uint8)
    high, wide = hu.shape[0] * spacing[0], hu.shape[1] * spacing[1]
    size = (max(1, round(THUMBNAIL * wide / max(high, wide))), max(1, round(THUMBNAIL * high / max(high, wide))))
    return bytes(cv2.imencode(".png", cv2.resize(grey, size, interpolation=cv2.INTER_AREA))[1])


def _add_uploads(app: FastAPI, room: Room, uploads: Uploads) -> None:
    @app.post("/api/uploads")
    def begin() -> dict[str, Any]:
        limits = uploads.limits
        return {
            "id": uploads.open().id, "files": limits.files, "file_bytes": limits.file_bytes,
            "upload_bytes": limits.upload_bytes,
        }  # fmt: skip

    @app.post(FILES + "{upload}/files")
    async def receive(upload: str, request: Request) -> dict[str, Any]:
        length = request.headers.get("content-length", "")
        # the name may hold a patient's, so it is in no URL
        name = request.headers.get("x-file-name", "")
        await uploads.receive(upload, name, request.stream(), int(length) if length.isdecimal() else None)
        return {}

    @app.post(FILES + "{upload}/finish")
    def finish(upload: str) -> dict[str, Any]:
        found = uploads.finish(upload)
        count = len(found.names)
        name = f"Upload of {count} file{'s' if count > 1 else ''}"
        try:
            return {"batch": room.add(name, [found.folder], found.folder, found.names).id}
        except UserError as error:
            uploads.discard(found)
            raise Refused(429, str(error)) from error

    @app.delete(FILES + "{upload}")
    def abort(upload: str) -> dict[str, Any]:
        uploads.abort(upload)
        return {}


def _add_readings(app: FastAPI, room: Room, readings: Readings) -> None:
    @app.put("/api/series/{series}/reading")
    async def put(series: str, request: Request) -> dict[str, Any]:
        each = room.series(series)
        if each.status != READ:
            raise Refused(409, "it can be judged when the detector has read it")
        if not each.scan.uid:
            raise Refused(409, "this series has no SeriesInstanceUID by which labels could name it")
        answers, note = _given(await request.body())
        calls = {label: each.call(label) for label in LABELS}
        values, disagreed = values_of(answers, calls)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        study = room.study_of(series).study.uid
        reading = Reading(each.scan.uid, study, values, tuple(disagreed), note, now, room.reader.sha256)
        try:
            readings.put(reading)
        except OSError as error:
            raise Refused(507, f"it could not be written: {error.strerror}") from error
        room.changed()
        return {"disagreed": disagreed}

    @app.get("/api/readings.csv")
    def download() -> Response:
        headers = {"Content-Disposition": 'attachment; filename="readings.csv"'}
        return Response(readings.as_csv(), media_type="text/csv; charset=utf-8", headers=headers)


def _given(body: bytes) -> tuple[dict[str, str], str]:
    """The answers by label and the note of a reading. Raises Refused for anything else."""
    try:
        given = json.loads(body)
        answers, note = dict(given["labels"]), given["note"]
        if not isinstance(note, str) or not all(isinstance(each, str) for each in answers.values()):
            raise TypeError(note)
        note.encode()  # a lone surrogate is JSON, and could never be written to a file
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(422, f"expected labels and a note: {shortened(type(error).__name__)}") from error
    if len(note) > MOST_NOTE:
        raise Refused(422, f"a note of {len(note)} letters; expected at most {MOST_NOTE}")
    return answers, " ".join(note.split())
