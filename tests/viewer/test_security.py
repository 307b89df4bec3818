"""Who may ask, and what every answer forbids."""

import logging

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from src.pages.html import content_security_policy
from src.viewer.security import HEADERS, SMALL_BODY, Guard
from tests.viewer.conftest import HOST, OWN, TOKEN, Served

PATHS = ["/", "/api/worklist", "/api/readings.csv", "/api/series/x", "/api/series/x/slice/0", "/docs", "/openapi.json"]


@pytest.fixture
def stranger(served: Served) -> TestClient:
    return TestClient(served.guard, base_url=f"http://{HOST}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "é"])
def test_without_the_token_there_is_nothing(stranger: TestClient, path: str, token: str | None) -> None:
    answer = stranger.get(path, params={} if token is None else {"token": token}, follow_redirects=False)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "whole address" in answer.text


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("reading-room-8000=")  # cookies do not tell ports apart
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert stranger.get("/").status_code == 200
    assert stranger.get("/api/worklist").json()["studies"] == []
    assert stranger.get("/openapi.json").status_code == 404


def test_a_token_in_a_header_does_too_and_in_other_addresses_does_not(stranger: TestClient) -> None:
    assert stranger.get("/api/worklist", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert stranger.get("/api/worklist", headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert stranger.get("/api/worklist", params={"token": TOKEN}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1:8000.evil.example", ""])
def test_a_name_that_was_made_to_point_here_is_refused(served: Served, host: str) -> None:
    # DNS rebinding: the browser says which name it believes to talk to
    assert served.client.get("/api/worklist", headers={"Host": host}).status_code == 421
    assert served.client.get("/", params={"token": TOKEN}, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://localhost:8000", ""]
)
def test_another_sites_page_can_change_nothing(served: Served, origin: str) -> None:
    assert served.client.post("/api/uploads", headers={"Origin": origin}).status_code == 403
    assert served.client.get("/api/worklist", headers={"Origin": origin}).status_code == 403


def test_a_change_needs_an_origin_or_the_token_itself(served: Served) -> None:
    client = TestClient(served.guard, base_url=f"http://{HOST}", cookies=dict(served.client.cookies))
    assert client.get("/api/worklist").status_code == 200
    assert client.post("/api/uploads").status_code == 403
    assert client.post("/api/uploads", headers={"Authorization": f"token {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_to_the_page_and_no_more(served: Served, site: str) -> None:
    fetched = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert served.client.get("/api/worklist", headers=fetched).status_code == 403
    linked = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert served.client.get("/", headers=linked).status_code == 200
    assert served.client.get("/api/readings.csv", headers=linked).status_code == 403


def test_every_answer_forbids_what_it_can(served: Served) -> None:
    for answer in (
        served.client.get("/"),
        served.client.get("/api/worklist"),
        served.client.get("/api/series/none"),
        served.client.get("/nothing"),
        TestClient(served.guard, base_url=f"http://{HOST}").get("/"),
    ):
        for name, value in HEADERS.items():
            if name != "Content-Security-Policy":
                assert answer.headers[name] == value
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in answer.headers
    allowed = {"connect-src": "'self'", "img-src": "'self'"}
    page = served.client.get("/")
    own = content_security_policy(["reading_room.js"], allowed)
    assert page.headers["Content-Security-Policy"] == f"{own}; frame-ancestors 'none'"
    assert "http://" not in page.text.replace("http://www.w3.org/", "")
    assert "https://" not in page.text


def test_requests_that_send_no_file_are_small(served: Served) -> None:
    answer = served.client.put("/api/series/x/reading", content=b" " * (SMALL_BODY + 1))
    assert answer.status_code == 413
    assert served.client.put("/api/series/x/reading", content=iter([b"{}"])).status_code == 411
    assert served.client.put("/api/series/x/reading", content=b"{}").status_code == 404


def test_what_an_error_says_is_neither_logged_nor_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict, receive: object, send: object) -> None:
        raise ValueError("Doe^Jane")

    client = TestClient(Guard(app, hosts=(HOST,), token=TOKEN, files="/files/"), base_url=f"http://{HOST}", headers=OWN)
    with caplog.at_level(logging.INFO):
        answer = client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 500
    assert "ValueError" in caplog.text
    assert "Doe" not in caplog.text + answer.text


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr("src.viewer.security.compare_digest", lambda given, secret: compared.append(given) or False)

    async def app(scope: dict, receive: object, send: object) -> None:
        await Response("in")(scope, Request(scope).receive, send)  # type: ignore[arg-type]

    client = TestClient(Guard(app, hosts=(HOST,), token=TOKEN, files="/files/"), base_url=f"http://{HOST}")
    assert client.get("/", params={"token": TOKEN}, follow_redirects=False).status_code == 403
    assert client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 403
    assert client.get("/", headers={"Cookie": "reading-room-8000=x"}).status_code == 403
    assert {TOKEN.encode(), b"x"} <= set(compared)
