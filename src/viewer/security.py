"""Who may ask this server anything: a browser that was given the token, from this server's own page.

A page of any other site can make a browser send requests to 127.0.0.1 (CSRF), and a name that it controls can be made
to point there (DNS rebinding). So the Host must be this machine's, the Origin this server's, and what identifies the
browser is a cookie that no other site's page makes it send (SameSite=Strict), got in exchange for the token in the
address that the terminal shows.
"""

import logging
import secrets
from collections.abc import Mapping
from hmac import compare_digest
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

SAFE = ("GET", "HEAD")
SMALL_BODY = 64 << 10  # bytes of a request that sends no file
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # patients' slices must not outlive the server in a browser's cache
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application around another one, which only gets requests that may be answered.

    hosts: allowed values of the Host header, such as "127.0.0.1:8000". token: what the address must hold.
    files: the beginning of the paths to which files are sent, which has no small limit.
    """

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...], token: str, files: str) -> None:
        self._app, self._hosts, self._token, self._files = app, hosts, token, files
        self._session = secrets.token_urlsafe(32)
        # cookies do not tell ports apart
        self._cookie = f"reading-room-{hosts[0].rpartition(':')[2]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: the ASGI server calls this."""
        if scope["type"] != "http":
            return  # no lifespan, no web sockets: the server closes them
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        answer = self._refusal(scope, headers) or self._entry(scope, headers)
        try:
            await (answer or self._app)(scope, receive, send_guarded)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends one request
            # what an error says may hold a patient's data: the log gets its kind and place alone
            _log.error("a request failed: %s in %s", type(error).__name__, _place_of(error))
            if started:
                raise ConnectionAbortedError from None
            await PlainTextResponse("This request failed.", 500)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that comes from elsewhere, or None."""
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        if host not in self._hosts:
            return PlainTextResponse("Unknown host.", 421)
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("Requests of other sites are refused.", 403)
        opens = scope["path"] == "/" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in (None, "same-origin", "none") and not opens:
            return PlainTextResponse("Requests of other sites are refused.", 403)
        if scope["method"] not in SAFE and origin is None and not self._has_bearer(headers):
            return PlainTextResponse("A request that changes something needs an Origin.", 403)
        if scope["method"] in SAFE or scope["path"].startswith(self._files):
            return None
        length = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
        if not length.isdecimal():
            return PlainTextResponse("Content-Length is missing.", 411)
        return PlainTextResponse("Too large.", 413) if int(length) > SMALL_BODY else None

    def _entry(self, scope: Scope, headers: Headers) -> Response | None:
        """None for a browser that is known; the cookie for one that has the token; a refusal for all others."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and given and _same(given, self._token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._session, path="/", httponly=True, samesite="strict")
            return answer
        if self._has_bearer(headers) or _same(_cookies(headers).get(self._cookie, ""), self._session):
            return None
        text = "This page needs the whole address that the terminal shows, with its token.\n"
        return PlainTextResponse(text, 403)

    def _has_bearer(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() in ("bearer", "token") and _same(given.strip(), self._token)


def _same(given: str, secret: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _cookies(headers: Headers) -> Mapping[str, str]:
    pairs = (each.strip().partition("=") for each in headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in pairs}


def _place_of(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else "an unknown place"
