"""Several viewers in a page: two series linked along z, the events a page can follow, and an end."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Route

from src.pages import SeriesView
from src.pages.codec import pack_pixels
from src.pages.html import environment, render
from src.pages.scripts import modules
from src.pages.series import series_values
from tests.pages.shown import CHROMIUM, DESKTOP, PHONE, WITHOUT, box_of

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)

NAMES = ["details", "warnings", "matrix_note", "series", "slices", "maps"]
NAMES += ["maps_note", "windows", "verdict", "sides", "ends"]
PAIR = f"""{{% extends "page.html" %}}{{% block content %}}<main class="pair" data-linked>
{{% for each in pair %}}<section class="series" data-series aria-label="{{{{ each.name }}}}" id="{{{{ each.name }}}}">
<h2>{{{{ each.name }}}}</h2>{{% with {", ".join(f"{name}=each.{name}" for name in NAMES)} %}}
{{% include "whole_series.html" %}}{{% endwith %}}</section>{{% endfor %}}</main>{{% endblock %}}"""
ALONE = """{% extends "page.html" %}{% block content %}<main class="series" data-root>
{% include "whole_series.html" %}</main>{% endblock %}"""


def _pair(*views: SeriesView) -> str:
    pair = [{"name": name, **series_values(view)} for name, view in zip("ab", views, strict=True)]
    return render(environment().from_string(PAIR), scripts=["series.js"], title="Two series", pair=pair)


@pytest.fixture(scope="module")
def thick(shown_view: SeriesView) -> SeriesView:
    """The same 145 mm in 12 slices of 12.5 mm, 3 mm higher, of 30 x 30 pixels."""
    rng = np.random.default_rng(1)
    n = 12
    return replace(
        shown_view,
        pixels=[rng.integers(-100, 200, (30, 30), dtype=np.int16) for _ in range(n)],
        spacings=[(1.5, 1.5)] * n,
        z=3 + 12.5 * np.arange(n),
        ids=[f"1.3.{i}" for i in range(n)],
        probabilities=np.full((n, 6), 0.01),
        maps=None,
    )


def _shown(page: Page) -> tuple[int, ...]:
    """The slices shown in both, from 1, once both show what they are asked for."""
    page.wait_for_timeout(100)
    return tuple(1 + int(str(page.get_attribute(f"#{name}", "data-shown"))) for name in "ab")


def _nearest(z: float, view: SeriesView) -> int:
    return 1 + int(np.nanargmin(np.abs(view.z - z)))


def test_scrolling_one_shows_the_nearest_in_the_other(
    opened: Callable[..., Page], shown_view: SeriesView, thick: SeriesView
) -> None:
    page = opened(shown_view, _pair(shown_view, thick))
    assert _shown(page) == (13, _nearest(60, thick)) == (13, 6)  # z 60, of 3, 15.5, ... 65.5
    page.focus('#a [data-part="stage"]')
    for key, number in (("ArrowDown", 14), ("PageDown", 17), ("Home", 1), ("n", 13)):
        page.keyboard.press(key)
        assert _shown(page) == (number, _nearest(shown_view.z[number - 1], thick))
    page.keyboard.press("End")
    assert _shown(page) == (30, 12)  # its z is not known: the same fraction of the series
    page.click('#b [data-part="stage"]')  # from now on keys are for the other one
    for key, number in (("ArrowUp", 11), ("ArrowUp", 10), ("Home", 1)):
        page.keyboard.press(key)
        assert _shown(page) == (_nearest(thick.z[number - 1], shown_view), number)


def test_series_without_a_common_z_go_by_fraction(
    opened: Callable[..., Page], shown_view: SeriesView, thick: SeriesView
) -> None:
    for z in (thick.z + 1000, np.full(12, np.nan)):
        page = opened(shown_view, _pair(shown_view, replace(thick, z=z)))
        assert _shown(page) == (13, 1 + round(12 / 29 * 11))
        page.keyboard.press("End")
        assert _shown(page) == (30, 12)


def test_window_and_zoom_follow(opened: Callable[..., Page], shown_view: SeriesView, thick: SeriesView) -> None:
    page = opened(shown_view, _pair(shown_view, thick))
    assert _shown(page) == (13, 6)
    page.click('#b [data-part="stage"]')
    for key in ("3", "+", "+", "+", "+", "+", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    for name in ("data-window", "data-zoom"):
        assert page.get_attribute("#a", name) == page.get_attribute("#b", name)
    assert page.get_attribute("#a", "data-window") == "40 380"
    assert str(page.get_attribute("#a", "data-zoom")).startswith("7.594 ")


def test_two_viewers_share_no_id_and_fit_every_width(
    opened: Callable[..., Page], shown_view: SeriesView, thick: SeriesView
) -> None:
    page = opened(shown_view, _pair(shown_view, thick))
    assert _shown(page) == (13, 6)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert ids == ["a", "b"]  # of this test's page
    assert page.evaluate("document.querySelectorAll('[aria-labelledby], [for]').length") == 0
    for width in (PHONE["width"], 700, 1024, DESKTOP["width"]):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        (left, *_), (right, *_) = box_of(page, "stage", "#a"), box_of(page, "stage", "#b")
        assert (right > left) == (width > 960)  # side by side where there is room


SLICE = np.random.default_rng(0).integers(0, 16, (512, 512), dtype=np.int16)
START = """async ({ n, rows }) => {
    const { Viewer } = await import("/viewer.js");
    const { link } = await import("/link.js");
    const slice = i => ({ rows, columns: rows, spacing: [0.5, 0.5], z: i, id: String(i), probabilities: null });
    const series = JSON.parse(document.querySelector("[data-part=series]").textContent);
    Object.assign(series, { study: null, slices: Array.from({ length: n }, (_, i) => slice(i)), maps: null });
    globalThis.asked = [];
    const packed = await (await fetch("/slice")).arrayBuffer();
    const read = async (kind, index) => (asked.push(index), new Uint8Array(packed.slice(0)));
    globalThis.viewer = new Viewer(document.querySelector("[data-root]"), series, read);
    globalThis.told = [];
    for (const name of ["go", "slice", "window", "zoom", "key"]) {
        viewer.on(name, detail => told.push([name, detail.index ?? detail.level ?? detail.scale ?? detail.key]));
    }
}"""


@pytest.fixture
def served(browser: Browser, shown_view: SeriesView) -> Iterator[Callable[..., Page]]:
    """A page of an origin that serves modules as files, and slices as bytes, as a server does."""
    text = render(
        environment().from_string(ALONE),
        allow={"script-src": "'self'", "connect-src": "'self'"},
        title="One series",
        **series_values(replace(shown_view, maps=None)),
    )
    files = {f"/{name}": text for name, text in modules(["viewer.js", "link.js"]).items()}
    seen: list[str] = []
    context = browser.new_context(viewport=DESKTOP)

    def _answer(route: Route, packed: bytes) -> None:
        path = "/" + route.request.url.split("/", 3)[3]
        if path == "/":
            route.fulfill(body=text, content_type="text/html")
        elif path == "/slice":
            route.fulfill(body=packed, content_type="application/octet-stream")
        else:
            route.fulfill(body=files[path], content_type="text/javascript")

    def _open(slices: int, pixels: np.ndarray) -> Page:
        packed = base64.b64decode(pack_pixels(pixels))
        context.route("**/*", lambda route: _answer(route, packed))
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto("http://viewer.test/")
        page.evaluate(START, {"n": slices, "rows": len(pixels)})
        page.wait_for_selector("[data-shown]")
        return page

    yield _open
    context.close()
    assert seen == []


def test_a_page_hears_of_all_and_the_end_is_one(served: Callable[..., Page]) -> None:
    page = served(20, SLICE[:16, :16])
    page.evaluate("told.length = 0")
    for key in ("ArrowDown", "2", "+", "x", "Control+ArrowDown"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
    told = page.evaluate("told")
    assert told == [["go", 11], ["slice", 11], ["window", 80], ["zoom", 1.5], ["key", "x"], ["key", "Control"],
                    ["key", "ArrowDown"]]  # fmt: skip
    states = "({ ...viewer.root.dataset, pressed: document.querySelectorAll('[aria-pressed=true]').length })"
    before = page.evaluate(states)
    page.evaluate("viewer.destroy(); told.length = 0; asked.length = 0")
    page.click('[data-part="stage"]')
    for key in ("ArrowDown", "2", "+", "x"):
        page.keyboard.press(key)
    page.click("button:has-text('Bone')")
    page.mouse.wheel(0, 120)
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(50)
    assert page.evaluate("[told, asked, viewer.index]") == [[], [], 11]
    assert page.evaluate(states) == before
    assert page.evaluate("[...document.querySelectorAll('canvas[data-part]')].map(each => each.width)") == [0, 0, 0]


def test_probabilities_may_come_later(served: Callable[..., Page]) -> None:
    page = served(20, SLICE[:16, :16])
    assert page.inner_text('[data-label="0"] [data-part="slice-value"]') == "\N{EN DASH}"
    page.keyboard.press("n")
    assert page.inner_text('[data-part="told"]') == "Probabilities are not known yet."
    page.evaluate(
        """viewer.judge({ study: Array(6).fill(0.8), thresholds: Array(6).fill(0.5),
                          probabilities: Array.from({ length: 20 }, (_, i) => Array(6).fill(i === 4 ? 0.8 : 0.1)) })"""
    )
    assert page.inner_text('[data-label="0"] [data-part="slice-value"]') == "0.10"
    page.keyboard.press("p")
    page.wait_for_selector('[data-shown="4"]')
    assert page.inner_text('[data-label="0"]').split()[-4:] == ["0.80", "0.80", "≥", "0.50"]


def _resident(page: Page) -> float:
    """MB of the memory of the page's process, after its garbage is collected."""
    session = page.context.new_cdp_session(page)
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    browser = page.context.browser
    assert browser is not None
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(
        int(Path(f"/proc/{each['id']}/statm").read_text().split()[1]) * 4096 / 1e6
        for each in processes
        if each["type"] == "renderer"
    )


def test_600_slices_of_512_pixels_are_seen_within_bounded_memory(served: Callable[..., Page]) -> None:
    page = served(600, SLICE)
    page.evaluate("viewer.go(0)")
    page.wait_for_selector('[data-shown="0"]')
    before = _resident(page)
    shown = page.evaluate(
        """async () => {
            for (let i = 0; i < 600; i++) {
                await new Promise(resolve => {
                    const ended = new AbortController();
                    viewer.on("slice", ({ index }) => index === i && (ended.abort(), resolve()), ended.signal);
                    viewer.go(i);
                });
            }
            return viewer.index + 1;
        }"""
    )
    assert shown == 600
    assert page.evaluate("new Set(asked).size") == 600
    kept = page.evaluate("[...viewer.loader.pixels.results.values()].filter(each => each.value).length")
    assert kept <= 30  # of 0.5 MB each
    assert _resident(page) - before < 100  # all of them have 315 MB
