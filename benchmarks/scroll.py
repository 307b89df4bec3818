"""Slices that the viewer paints a second while the wheel turns, in a headless Chromium without a graphics card.

    python -m benchmarks.scroll --head-ct FOLDER

A wheel event is sent to the page 60 times a second, each a step to the next slice, back and forth through the series.
At each animation frame the page counts whether another slice has been painted since the frame before. A page from disk
holds its slices; the others read them one by one from a server of this machine, as a browser's cache was empty.
"""

import argparse
import base64
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.head_ct import add_head_ct, find_head_ct, head_ct_name
from benchmarks.measure import machine, table
from src.dicom import read_hounsfield
from src.labels import LABELS
from src.pages import SeriesView, series_page
from src.pages.codec import pack_pixels
from src.pages.html import environment, render
from src.pages.scripts import modules
from src.pages.series import series_values

SECONDS, PER_SECOND = 3, 60
PAGE = """{% extends "page.html" %}{% block content %}
<main class="series" data-root>{% include "whole_series.html" %}</main>{% endblock %}"""
START = """async n => {
    const { Viewer } = await import("/viewer.js");
    const root = document.querySelector("[data-root]");
    const series = JSON.parse(root.querySelector("[data-part=series]").textContent);
    series.slices = Array.from({ length: n }, (_, i) => ({ ...series.slices[0], z: i }));
    const read = async (_, index) => new Uint8Array(await (await fetch(`/slice/${index}`)).arrayBuffer());
    new Viewer(root, series, read);
}"""
TURN = """async ({ seconds, perSecond }) => {
    const root = document.querySelector("main"), stage = document.querySelector("[data-part=stage]");
    const wait = ms => new Promise(resolve => setTimeout(resolve, ms));
    const last = Number(root.querySelector("[data-part=strip]").getAttribute("aria-valuemax")) - 1;
    let [direction, painted, shown, gap, before, counting] = [1, 0, root.dataset.shown, 0, performance.now(), true];
    const count = () => {
        if (root.dataset.shown !== shown) {
            const now = performance.now();
            [painted, shown, gap, before] = [painted + 1, root.dataset.shown, Math.max(gap, now - before), now];
        }
        if (counting) requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    const started = performance.now();
    for (let sent = 0; sent < seconds * perSecond; sent++) {
        if (Number(shown) >= last) direction = -1;
        if (Number(shown) <= 0) direction = 1;
        stage.dispatchEvent(new WheelEvent("wheel", { deltaY: 120 * direction, bubbles: true, cancelable: true }));
        await wait(started + (1000 * (sent + 1)) / perSecond - performance.now());
    }
    counting = false;
    return [(1000 * painted) / (performance.now() - started), gap];
}"""


def _view(pixels: list[np.ndarray]) -> SeriesView:
    """A series of some slices, with probabilities by chance."""
    n = len(pixels)
    probabilities = np.random.default_rng(0).random((n, len(LABELS)))
    facts: dict[str, Any] = {
        "title": "Scrolling",
        "details": [],
        "warnings": [],
        "maps": None,
        "maps_note": "None.",
        "sides": "RLAP",
    }
    return SeriesView(
        pixels=pixels,
        spacings=[(0.5, 0.5)] * n,
        z=np.arange(n, dtype=float),
        ids=[str(i) for i in range(n)],
        probabilities=probabilities,
        study=probabilities.max(axis=0),
        thresholds={LABELS[0]: 0.5},
        **facts,
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, page: str, packed: list[bytes], *arguments: Any) -> None:
        self._page, self._packed = page.encode(), packed
        self._modules = {f"/{name}": text.encode() for name, text in modules(["viewer.js"]).items()}
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The page, a module or a slice."""
        if self.path.startswith("/slice/"):
            kind, body = "application/octet-stream", self._packed[int(self.path[7:]) % len(self._packed)]
        elif self.path in self._modules:
            kind, body = "text/javascript", self._modules[self.path]
        else:
            kind, body = "text/html", self._page if self.path == "/" else b""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # the page is closed while it reads ahead
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def _served(view: SeriesView) -> Iterator[str]:
    """The address of a page that reads slices one by one."""
    values = series_values(replace(view, **_first(view)))
    allow = {"script-src": "'self'", "connect-src": "'self'"}
    page = render(environment().from_string(PAGE), allow=allow, title="Scrolling", **values)
    packed = [base64.b64decode(pack_pixels(each)) for each in view.pixels]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, page, packed))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def _first(view: SeriesView) -> dict[str, Any]:
    lists = ("pixels", "spacings", "z", "ids", "probabilities")
    return {name: getattr(view, name)[:1] for name in lists}


def _turn(page: Page) -> tuple[float, float]:
    """Slices painted a second, and the longest time without one, in ms."""
    page.wait_for_selector("main[data-shown]")
    painted, gap = page.evaluate(TURN, {"seconds": SECONDS, "perSecond": PER_SECOND})
    return painted, gap


def _measure(
    browser: Browser, address: str, slices: int, rounds: int, zoom: int = 0, slower: int = 1
) -> tuple[float, float]:
    """Medians over fresh pages, enlarged by some steps, on a processor some times slower."""
    found = []
    for _ in range(rounds):
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.goto(address)
        if address.startswith("http"):
            page.evaluate(START, slices)
        for _ in range(zoom):
            page.keyboard.press("+")
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})
        found.append(_turn(page))
        page.context.close()
    return statistics.median(painted for painted, _ in found), statistics.median(gap for _, gap in found)


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scroll", description=__doc__.split("\n")[0])
    add_head_ct(parser)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are printed (default %(default)s)")
    parser.add_argument("--chromium", default="chromium", help="the browser's program (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        originals = [np.rint(read_hounsfield(path)).astype(np.int16) for path in find_head_ct(args.head_ct, Path(name))]
        view = _view([originals[i % len(originals)] for i in range(30)])
        disk = Path(name) / "series.html"
        disk.write_text(series_page(view), encoding="utf-8")
        # as root, as in a container, Chromium's sandbox cannot start; it opens pages of this benchmark alone
        browser = playwright.chromium.launch(executable_path=shutil.which(args.chromium), args=["--no-sandbox"])
        print(f"{machine()}; Chromium {browser.version}; {head_ct_name(args.head_ct)}, {originals[0].shape}")
        with _served(view) as address:
            rows = [
                (what, *_measure(browser, where, slices, args.rounds, zoom, slower))
                for what, where, slices, zoom, slower in (
                    ("30 slices in a page from disk", disk.as_uri(), 30, 0, 1),
                    ("30 slices, read from a server", address, 30, 0, 1),
                    ("600 slices, read from a server", address, 600, 0, 1),
                    ("600 slices, read from a server, zoomed 5 times", address, 600, 4, 1),
                    ("30 slices in a page from disk, processor slowed 4 times", disk.as_uri(), 30, 0, 4),
                )
            ]
        browser.close()
    table(f"{PER_SECOND} wheel events a second", ("what", "slices painted a second", "longest gap, ms"), rows)


if __name__ == "__main__":
    main()
