"""The reading room in a real browser: dropped, listed, opened, scrolled, judged, cancelled."""

import base64
import json
import re
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, Page

from src.detector import Detector
from src.detector.detector import Prediction
from src.progress import Watch, unwatched
from src.study.answer import Reader
from src.viewer.app import FILES, make_app
from src.viewer.jobs import Room
from src.viewer.readings import Readings
from src.viewer.security import Guard
from src.viewer.store import Store
from src.viewer.uploads import Limits, Uploads
from tests.pages.shown import CHROMIUM, DESKTOP, PHONE, WITHOUT
from tests.pages.test_access import COLOURS, _luminance
from tests.study.conftest import Head, head_hu
from tests.viewer.conftest import TOKEN

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)


@dataclass
class Live:
    """A server that listens, and how pages of it are opened."""

    room: Room
    root: str
    open: Callable[..., Page]
    seen: list[str] = field(default_factory=list)  # complaints, and requests to other places


@pytest.fixture
def live(browser: Browser, reader: Reader, tmp_path: Path) -> Iterator[Live]:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", min_free=0)
    room, uploads = Room(reader, store), Uploads(store, Limits())
    listening = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    guard = Guard(make_app(room, uploads, Readings()), hosts=(host,), token=TOKEN, files=FILES)
    server = uvicorn.Server(uvicorn.Config(guard, lifespan="off", log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    room.start()
    thread.start()
    contexts, seen = [], []

    def _open(**options: object) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda each: each.url.startswith(f"http://{host}/") or seen.append(each.url))
        page.goto(f"http://{host}/?token={TOKEN}")
        assert TOKEN not in page.url
        return page

    yield Live(room, f"http://{host}", _open, seen)
    for context in contexts:
        context.close()
    room.close()
    server.should_exit = True
    thread.join(10)
    assert seen == []


# what a browser does with a folder that is dropped; a script cannot make one, so its entries are given
DROP = """async ({ folder, names }) => {
    const files = await Promise.all(names.map(async (name, i) =>
        new File([Uint8Array.from(atob(globalThis.dropped[i]), each => each.charCodeAt(0))], name)));
    const entry = file => ({ isFile: true, fullPath: `/${folder}/${file.name}`, file: give => give(file) });
    let left = files.map(entry);
    const reader = { readEntries: give => give(left.splice(0, 100)) };
    const root = { isFile: false, fullPath: `/${folder}`, createReader: () => reader };
    const event = new Event("drop", { bubbles: true, cancelable: true });
    event.dataTransfer = { items: [{ webkitGetAsEntry: () => root }], files: [] };
    dispatchEvent(event);
}"""


def _drop(page: Page, folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    data = [base64.b64encode(path.read_bytes()).decode() for path in paths]
    page.evaluate("data => (globalThis.dropped = data)", data)
    page.evaluate(DROP, {"folder": folder.name, "names": [path.name for path in paths]})


REDS = """() => {
    const canvas = document.querySelector('canvas[data-part="image"]');
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    return [...copy.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0);
}"""


def _until(page: Page, holds: str) -> None:
    """Wait for a condition, without Playwright's own way to, which the page's policy forbids."""
    end = time.monotonic() + 10
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        page.wait_for_timeout(20)


def _shows(page: Page, hu: np.ndarray, number: int) -> None:
    """The image is this slice, number from 1, in the brain window."""
    page.wait_for_selector(f'[data-shown="{number - 1}"]')
    image = np.array(page.evaluate(REDS)).reshape(hu.shape)
    assert np.abs(image - np.clip(255 * (hu / 80.0), 0, 255)).max() <= 1


def test_a_folder_is_dropped_read_opened_scrolled_and_judged(live: Live, write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "head", 12)
    (tmp_path / "head" / "note.txt").write_text("<b>for the reader</b>")
    page = live.open()
    assert page.inner_text('[data-part="empty"]') == "No studies yet."
    _drop(page, tmp_path / "head")
    page.wait_for_selector('.series-row[data-status="read"]')
    assert "P1" in page.inner_text(".study-head h3")
    assert "Doe" not in page.content()
    assert "1 of 13 files passed over" in page.inner_text(".batches")
    page.click(".batches summary")
    assert "head/note.txt: not dicom" in page.inner_text(".batches")
    _until(page, "document.querySelector('.thumbnail img').naturalWidth === 112")
    page.click("button.open")
    page.wait_for_selector("[data-shown]")
    assert re.fullmatch(r"/#[\w-]{12}", page.url.removeprefix(live.root))
    hu = head_hu(12)
    page.keyboard.press("Home")
    _shows(page, hu[0], 1)
    for number in range(2, 13):
        page.keyboard.press("ArrowDown")
        _shows(page, hu[number - 1], number)
    page.keyboard.press("m")
    page.wait_for_selector('[data-map^="11 "]')
    page.check('input[name="any"] >> nth=0')
    page.check('input[name="epidural"][value="absent"]')
    page.fill("textarea", "[n] is no key here")
    assert page.get_attribute("[data-shown]", "data-shown") == "11"
    page.click("text=Save reading")
    page.wait_for_selector('[data-part="saved"]:has-text("Saved")')
    with page.expect_download() as download:
        page.keyboard.press("Escape")
        page.click("text=Download readings")
    text = Path(download.value.path()).read_text()
    assert "[n] is no key here" in text
    page.wait_for_selector("text=Open (judged)")
    page.go_back()  # to the series
    page.wait_for_selector("[data-shown]")
    assert page.is_checked('input[name="epidural"][value="absent"]')
    page.go_back()
    page.wait_for_selector(".studies:visible")


def test_slices_are_there_before_the_probabilities_and_stay_where_they_are(
    live: Live, write_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, real = threading.Event(), Detector.predict

    def waits(detector: Detector, series: object, *, watch: Watch = unwatched) -> Prediction:
        watch(1, 3)
        assert event.wait(30)
        return real(detector, series, watch=watch)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "predict", waits)
    write_head(tmp_path / "head", 12)
    page = live.open()
    began = time.monotonic()
    live.room.add("head", [tmp_path / "head"])
    page.click("button.open")
    page.wait_for_selector("[data-shown]")
    assert time.monotonic() - began < 5
    assert page.inner_text(".verdict") == "Probabilities are being computed."
    assert page.is_disabled("text=Save reading")
    page.keyboard.press("End")
    page.keyboard.press("2")
    page.wait_for_selector('[data-shown="11"][data-window="80 200"]')
    event.set()
    page.wait_for_selector(".series:not([data-pending])")
    page.wait_for_selector('.verdict:has-text("Study: any hemorrhage")')
    assert page.get_attribute("[data-shown]", "data-shown") == "11"
    assert page.get_attribute("[data-shown]", "data-window") == "80 200"
    page.keyboard.press("m")
    page.wait_for_selector('[data-map^="11 "]')
    page.check('input[name="any"] >> nth=0')
    page.click("text=Save reading")
    page.wait_for_selector('[data-part="saved"]:has-text("Saved")')


def test_files_are_chosen_a_zip_too_and_a_study_is_cancelled(
    live: Live, write_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, real = threading.Event(), Detector.predict

    def waits(detector: Detector, series: object, *, watch: Watch = unwatched) -> Prediction:
        while not event.wait(0.02):
            watch(1, 3)
        return real(detector, series, watch=watch)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "predict", waits)
    paths = write_head(tmp_path / "head", 12)
    with zipfile.ZipFile(tmp_path / "cd.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"../{path.name}")
    page, other = live.open(), live.open()
    page.set_input_files('[data-part="files"]', tmp_path / "cd.zip")
    page.wait_for_selector('.series-row[data-status="computing"]')
    other.wait_for_selector('.series-row[data-status="computing"]')  # a second browser sees the same
    page.click(".study-head button:has-text('Cancel')")
    other.wait_for_selector('.series-row[data-status="cancelled"]')
    assert "Cancelled" in other.inner_text(".series-row")
    event.set()
    other.set_input_files('[data-part="files"]', paths[:8])
    page.wait_for_selector('.series-row[data-status="read"]')
    assert "Only 8 slices" in page.inner_text('.series-row[data-status="read"]')
    for _ in range(2):
        page.click(".study-head button:has-text('Remove') >> nth=0")
        page.wait_for_timeout(200)
    other.wait_for_selector("text=No studies yet.")
    assert not list((tmp_path / "store").iterdir())


def test_two_series_are_side_by_side_and_the_keyboard_is_enough(live: Live, write_head: Head, tmp_path: Path) -> None:
    write_head(tmp_path / "a", 12, patient="A", study="1.2.1", series="1.2.1.1")
    write_head(tmp_path / "b", 24, patient="B", study="1.2.2", series="1.2.2.1")
    page = live.open()
    live.room.add("in", [tmp_path / "a", tmp_path / "b"])
    _until(page, "document.querySelectorAll('.series-row[data-status=read]').length === 2")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-shown]")
    second = page.inner_text('[data-part="opened-title"]')
    page.keyboard.press("[")
    title = "document.querySelector('[data-part=opened-title]').textContent"
    _until(page, f"{title} !== {json.dumps(second)}")
    page.wait_for_selector("[data-shown]")
    page.keyboard.press("Home")
    page.focus('[data-part="compare"]')
    page.keyboard.press("ArrowDown")
    _until(page, "document.querySelectorAll('[data-shown]').length === 2")
    page.focus('.series >> nth=0 >> [data-part="stage"]')
    page.keyboard.press("Home")
    page.keyboard.press("PageDown")
    _until(page, "[...document.querySelectorAll('[data-shown]')].every(each => each.dataset.shown === '2')")
    page.uncheck('[data-part="linked"]')
    page.focus('.series >> nth=0 >> [data-part="stage"]')
    page.keyboard.press("ArrowDown")
    _until(page, "[...document.querySelectorAll('[data-shown]')].map(e => e.dataset.shown).join() === '3,2'")
    page.keyboard.press("Escape")
    page.wait_for_selector(".studies:visible")
    assert page.evaluate("document.activeElement.classList.contains('open')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_no_width_needs_sideways_scrolling(
    live: Live, write_head: Head, tmp_path: Path, scheme: str
) -> None:
    write_head(tmp_path / "in" / "a", 8, patient="A" * 64, StudyDescription="CT " + "head" * 15)
    write_head(tmp_path / "in" / "b", 8, patient="A" * 64, SeriesNumber=3, ConvolutionKernel="H70h")
    (tmp_path / "in" / ("n" * 100)).write_text("text")
    page = live.open(color_scheme=scheme)
    live.room.add("Upload", [tmp_path / "in"])
    live.room.add("Nowhere", [tmp_path / "nowhere"])
    page.wait_for_selector('.series-row[data-status="read"]')
    page.wait_for_selector(".batches li:has-text('failed')")
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")

    def check(least: int) -> None:
        colours = page.evaluate(COLOURS)
        assert len(colours) > least
        for text, *pair in colours:
            dark, light = sorted(map(_luminance, pair))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, pair)  # WCAG 2.2, 1.4.3, AA
        for width in (360, PHONE["width"], 700, 961, 1024, 1440, 2560):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size(DESKTOP)
        unnamed = """[...document.querySelectorAll("button, input:not([hidden]), select, textarea, a, summary")]
            .filter(each => !(each.textContent.trim() || each.ariaLabel || each.labels?.[0]?.textContent.trim()))
            .map(each => each.outerHTML)"""
        assert page.evaluate(unnamed) == []

    check(25)
    page.click("button.open")
    page.wait_for_selector("[data-shown]")
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    check(90)


def test_a_server_that_has_ended_is_said_to_have(live: Live) -> None:
    page = live.open()
    page.wait_for_selector("text=No studies yet.")
    page.route("**/api/worklist*", lambda route: route.abort())
    page.wait_for_selector("text=The server has ended.")
    live.seen.clear()  # the browser says so too
    page.unroute("**/api/worklist*")
    page.wait_for_selector("text=The server has ended.", state="hidden")


def test_a_real_head_ct_is_dropped(live: Live, real_head_ct: Path, tmp_path: Path) -> None:
    shutil.copytree(real_head_ct, tmp_path / "ge")
    page = live.open()
    _drop(page, tmp_path / "ge")
    page.click("button.open")
    page.wait_for_selector("[data-shown]")
    (each,) = [each for study in live.room._studies.values() for each in study.series]
    assert each.kept is not None
    for number in (28, 1, 14):
        page.focus('[data-part="strip"]')
        page.keyboard.press("Home")
        for _ in range(number - 1):
            page.keyboard.press("ArrowDown")
        _shows(page, each.kept.slice(number - 1), number)
    page.wait_for_selector(".series:not([data-pending])", timeout=30_000)
    assert "28" in page.inner_text('[data-part="position"]')
