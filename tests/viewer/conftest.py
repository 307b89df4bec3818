"""A reading room in this process, with the small detector of the tests of studies, and who may ask it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from src.study.answer import Reader
from src.viewer.app import FILES, make_app
from src.viewer.jobs import Room
from src.viewer.readings import FILE, Readings
from src.viewer.security import Guard
from src.viewer.store import Store
from src.viewer.uploads import Limits, Uploads
from tests.pages.conftest import browser
from tests.study.conftest import detector_folder, write_head  # noqa: F401 - fixtures

__all__ = ["browser"]  # a fixture, which pages of the reading room are opened in too

HOST, TOKEN = "127.0.0.1:8000", "a-token-of-the-tests"
OWN = {"Origin": f"http://{HOST}"}


@dataclass
class Served:
    """A reading room, and a client with the cookie of its page."""

    room: Room
    uploads: Uploads
    guard: Guard
    client: TestClient
    folder: Path

    def told(self) -> dict[str, Any]:
        return self.client.get("/api/worklist").json()

    def wait(self, until: Callable[[dict[str, Any]], object], seconds: float = 30.0) -> dict[str, Any]:
        """What the list says when something holds."""
        end = time.monotonic() + seconds
        while not until(told := self.told()):
            assert time.monotonic() < end, told
            time.sleep(0.02)
        return told

    def wait_until_read(self) -> dict[str, Any]:
        return self.wait(lambda told: all(each["status"] not in ("waiting", "reading") for each in told["batches"]))

    def upload(self, files: dict[str, bytes]) -> str:
        """Send files by name: the id of the batch."""
        upload = self.client.post("/api/uploads").json()["id"]
        for name, data in files.items():
            answer = self.client.post(f"{FILES}{upload}/files", content=data, headers={"X-File-Name": name})
            assert answer.status_code == 200, answer.text
        return self.client.post(f"{FILES}{upload}/finish").json()["batch"]


@pytest.fixture(scope="session")
def reader(detector_folder: Path) -> Reader:  # noqa: F811
    return Reader.load(detector_folder)


@pytest.fixture
def serve(reader: Reader, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    rooms = []

    def _serve(output: Path | None = None, reader: Reader = reader, min_free: int = 0, **limits: float) -> Served:
        folder = tmp_path / "store"
        folder.mkdir(exist_ok=True)
        store = Store(folder, min_free=min_free)
        room, uploads = Room(reader, store, output), Uploads(store, Limits(**limits))  # type: ignore[arg-type]
        app = make_app(room, uploads, Readings(output / FILE if output else None))
        guard = Guard(app, hosts=(HOST, "localhost:8000"), token=TOKEN, files=FILES)
        room.start()
        rooms.append(room)
        client = TestClient(guard, base_url=f"http://{HOST}", headers=OWN)
        assert client.get("/", params={"token": TOKEN}).status_code == 200
        return Served(room, uploads, guard, client, folder)

    yield _serve
    for room in rooms:
        room.close()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()
