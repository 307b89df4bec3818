"""The page of a series in a real browser: what its canvas shows, and that mouse, fingers and keys reach everything."""

import base64
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from src.ct.windows import Window, apply_windows
from src.pages import SeriesView, series_page
from src.pages.series import WINDOWS

SLICES, ROWS, COLUMNS = 30, 40, 60
STRIP = "document.querySelector('[data-part=strip]').toDataURL()"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        # as root, as in a container, Chromium's sandbox cannot start; it shows files of this test alone
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def view() -> SeriesView:
    """30 slices, the highest the 13th, wider than high; suspicious are the runs around 13 and 23 (from 1)."""
    rng = np.random.default_rng(0)
    probabilities = np.full((SLICES, 6), 0.004)
    probabilities[11:14, 0] = [0.5, 0.9, 0.6]
    probabilities[21:24, 0] = [0.5, 0.7, 0.6]
    maps = np.zeros((SLICES, 6, 8, 8), dtype=np.float32)
    maps[:, 0, 3, 6] = 1  # row 3 and column 6 of 8, of a square around the slice
    maps[:, 5, 4, 1] = 1
    return SeriesView(
        title="Head CT <b>not bold</b>",
        details=[("Slice thickness", "5.0 mm"), ("Series", "1.2.840." + "123456789." * 12)],
        warnings=["One slice may be missing.", "The gantry is tilted by 18.5 degrees."],
        pixels=[rng.integers(-1024, 3072, (ROWS, COLUMNS), dtype=np.int16) // (1 + i % 2 * 9) for i in range(SLICES)],
        spacings=[(1.0, 0.5)] * SLICES,
        z=np.where(np.arange(SLICES) == 29, np.nan, 5.0 * np.arange(SLICES)),
        ids=[f"1.2.{i}" for i in range(SLICES)],
        probabilities=probabilities,
        study=probabilities.max(axis=0),
        thresholds={"any": 0.4, "subdural": 0.3},
        maps=maps,
        maps_note="Coarse.",
        sides="RLAP",
    )


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a page from disk; in the end nothing may have been complained about, or asked of any other place."""
    seen: list[str] = []
    contexts = []

    def _open(view: SeriesView, text: str = "", init: str = "", **options: object) -> Page:
        path = tmp_path / "series.html"
        path.write_text(text or series_page(view), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: request.url == path.as_uri() or seen.append(request.url))
        page.add_init_script(init)
        page.goto(path.as_uri())
        return page

    yield _open
    for context in contexts:
        context.close()
    assert seen == []


def _canvas(page: Page, name: str) -> np.ndarray:
    """What a canvas holds: (rows, columns, 4) of red, green, blue and alpha."""
    rows, columns, text = page.evaluate(
        """name => {
            const canvas = document.querySelector(`canvas[data-part="${name}"]`);
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
            copy.drawImage(canvas, 0, 0); // reading the canvas itself twice makes Chromium warn
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, btoa(String.fromCharCode(...data))];
        }""",
        name,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(rows, columns, 4).astype(int)


def _shows(page: Page, view: SeriesView, number: int, window: Window = WINDOWS["Brain"]) -> None:
    """The image is slice `number`, from 1, through a window, and the page says so."""
    page.wait_for_selector(f'[data-shown="{number - 1}"][data-window="{window.level} {window.width}"]')
    expected = np.rint(255 * apply_windows(view.pixels[number - 1], (window,))[..., 0])
    image = _canvas(page, "image")
    assert image.shape[:2] == expected.shape
    assert np.abs(image[..., :3] - expected[..., None]).max() <= 1
    assert (image[..., 3] == 255).all()
    assert f"Slice {number} / {SLICES}" in page.inner_text('[data-part="position"]')


def test_the_highest_slice_comes_first_and_keys_scroll(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view)
    _shows(page, view, 13)
    assert page.inner_text("h1") == "Head CT <b>not bold</b>"
    assert page.inner_text('tr[data-label="0"]').split() == ["Any", "hemorrhage", "0.90", "0.90", "≥", "0.40"]
    assert page.inner_text('tr[data-label="5"]').split() == ["Subdural", "<0.01", "<0.01", "<", "0.30"]
    for key, number in (
        ("ArrowDown", 14),
        ("ArrowUp", 13),
        ("PageDown", 16),
        ("PageUp", 13),
        ("n", 23),
        ("n", 23),
        ("p", 13),
        ("End", 30),
        ("ArrowDown", 30),
        ("p", 23),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        _shows(page, view, number)
    assert "z 0.0 mm" in page.inner_text('[data-part="position"]')
    page.keyboard.press("End")
    _shows(page, view, 30)
    assert "z unknown" in page.inner_text('[data-part="position"]')


def test_windows_by_key_button_and_number(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view)
    assert [*WINDOWS.values()] == [(40, 80), (80, 200), (40, 380), (600, 2800), (40, 40)]
    for number, window in enumerate(WINDOWS.values(), 1):
        page.keyboard.press(str(number))
        _shows(page, view, 13, window)
    page.click("button:has-text('Bone')")
    _shows(page, view, 13, WINDOWS["Bone"])
    assert page.get_attribute("button:has-text('Bone')", "aria-pressed") == "true"
    page.fill('[data-part="level"]', "55")
    page.press('[data-part="level"]', "Enter")
    page.keyboard.press("ArrowUp")  # in a field of numbers: the number, not the slice
    page.press('[data-part="level"]', "Tab")
    _shows(page, view, 13, Window(56, 2800))
    page.keyboard.press("r")  # in the field too, where it is no number
    page.click("button:has-text('Reset')")
    _shows(page, view, 13)


def test_wheel_strip_and_drag(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view)
    _shows(page, view, 13)
    frame = page.locator('[data-part="frame"]').bounding_box()
    assert frame is not None
    # rows of 1 mm and columns of 0.5 mm: 40 x 60 pixels are 40 x 30 mm
    assert frame["width"] / frame["height"] == pytest.approx(30 / 40, abs=0.01)
    x, y = frame["x"] + frame["width"] * 20.5 / COLUMNS, frame["y"] + frame["height"] * 10.5 / ROWS
    page.mouse.move(x, y)
    assert page.inner_text('[data-part="pointer"]').split() == [
        *(str(view.pixels[12][10, 20]), "HU"),
        *("row", "11,", "column", "21"),
    ]
    for turn, number in ((120, 14), (-120, 13), (20, 13), (35, 14)):
        page.mouse.wheel(0, turn)
        _shows(page, view, number)
    assert page.inner_text('[data-part="pointer"]').startswith(f"{view.pixels[13][10, 20]} HU")
    page.mouse.down()
    page.mouse.move(x + 64, y - 32)
    page.mouse.up()
    _shows(page, view, 14, Window(40 + 10, 80 + 20))  # width / 256 HU a pixel
    assert "Free window" in page.inner_text('[data-part="window"]')
    strip = page.locator('[data-part="strip"]').bounding_box()
    before = page.evaluate(STRIP)
    assert strip is not None
    page.mouse.click(strip["x"] + strip["width"] * 4.5 / SLICES, strip["y"] + 5)
    _shows(page, view, 5, Window(50, 100))
    assert page.evaluate(STRIP) != before
    assert page.get_attribute('[data-part="strip"]', "aria-valuenow") == "5"


def test_maps_lie_over_the_square_around_the_slice(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view)
    _shows(page, view, 13)
    assert not page.is_visible('[data-part="map"]')
    # 40 x 60 in a square of 60: row 3.5 of 8 is 26.25 of 60, less the padding of 10
    for act, label, row, column in (
        (lambda: page.keyboard.press("m"), 0, 3.5 * 60 / 8 - 10, 6.5 * 60 / 8),
        (lambda: page.select_option('[data-part="map-label"]', "5"), 5, 4.5 * 60 / 8 - 10, 1.5 * 60 / 8),
    ):
        act()
        page.wait_for_selector(f'[data-map="12 {label} 0.5"]')
        alpha = _canvas(page, "map")[..., 3]
        assert 90 < alpha.max() <= 128  # half opaque, less what smoothing takes of a peak
        rows, columns = np.indices(alpha.shape) + 0.5
        centre = (rows * alpha).sum() / alpha.sum(), (columns * alpha).sum() / alpha.sum()
        assert centre == pytest.approx((row, column), abs=1)
    assert "Map: Subdural" in page.inner_text('[data-part="window"]')
    page.fill('[data-part="map-opacity"]', "1")
    page.wait_for_selector('[data-map="12 5 1"]')
    assert 180 < _canvas(page, "map")[..., 3].max() <= 255
    page.keyboard.press("Home")  # the slider's own key
    page.wait_for_selector('[data-map="12 5 0.1"]')
    page.focus('[data-part="map-on"]')
    page.keyboard.press("ArrowDown")
    _shows(page, view, 14)
    assert page.get_attribute("main", "data-map") == "13 5 0.1"  # never of another slice than the image
    page.click('[data-part="stage"]')
    page.keyboard.press("m")
    assert not page.is_visible('[data-part="map"]')


def test_a_finger_scrolls_and_a_phone_needs_no_sideways_scrolling(
    opened: Callable[..., Page], view: SeriesView
) -> None:
    page = opened(view, viewport=PHONE, has_touch=True, is_mobile=True)
    _shows(page, view, 13)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.locator('[data-part="stage"]').scroll_into_view_if_needed()
    box = page.locator('[data-part="stage"]').bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = page.context.new_cdp_session(page)
    for kind, down in (("touchStart", 0), ("touchMove", 14), ("touchMove", 40), ("touchEnd", None)):
        points = [] if down is None else [{"x": x, "y": y + down}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    _shows(page, view, 16)


# text of an element and what is behind it, as sRGB in [0, 255], of all elements with text of their own
COLOURS = """() => {
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || element.matches("script, noscript, option") || !element.checkVisibility()) continue;
        let behind = element;
        const clear = each => (numbers(getComputedStyle(each).backgroundColor)[3] ?? 1) === 0;
        while (behind && clear(behind)) behind = behind.parentElement;
        const style = getComputedStyle(element);
        found.push([element.textContent.trim().slice(0, 40), numbers(style.color).slice(0, 3),
                    numbers(getComputedStyle(behind ?? document.body).backgroundColor).slice(0, 3)]);
    }
    return found;
}"""


def _luminance(colour: list[float]) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    unit = np.array(colour) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Callable[..., Page], view: SeriesView, scheme: str) -> None:
    page = opened(view, color_scheme=scheme)
    _shows(page, view, 13)
    page.click("summary")
    colours = page.evaluate(COLOURS)
    assert len(colours) > 60
    for text, *pair in colours:
        dark, light = sorted(map(_luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, pair)  # WCAG 2.2, 1.4.3, AA
    page_is_dark = _luminance(next(pair[1] for text, *pair in colours if text == "Head CT <b>not bold</b>")) < 0.1
    assert page_is_dark == (scheme == "dark")


def test_the_keyboard_reaches_every_control(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view)
    _shows(page, view, 13)
    page.evaluate("document.querySelector('details').open = true")
    controls = "button, input, select, summary, [tabindex]"
    unnamed = page.evaluate(
        """controls => [...document.querySelectorAll(controls)]
            .filter(each => !(each.textContent.trim() || each.ariaLabel || each.labels?.[0]?.textContent.trim()))
            .map(each => each.outerHTML)""",
        controls,
    )
    assert unnamed == []
    reached = set()
    for _ in range(page.locator(controls).count()):
        page.keyboard.press("Tab")
        outline, html = page.evaluate(
            "[getComputedStyle(document.activeElement).outlineStyle, document.activeElement.outerHTML.slice(0, 200)]"
        )
        assert outline == "solid", html
        reached.add(html)
    assert len(reached) == page.locator(controls).count()
    # single letters can be switched off (WCAG 2.1.4), arrows stay
    page.uncheck('[data-part="shortcuts"]')
    page.keyboard.press("2")
    page.keyboard.press("ArrowDown")
    _shows(page, view, 14)


COUNT = """
    globalThis.decoded = 0;
    const Real = globalThis.DecompressionStream;
    globalThis.DecompressionStream = class extends Real { constructor(kind) { super(kind); globalThis.decoded++; } };
"""


def test_few_decoded_slices_are_kept(opened: Callable[..., Page], view: SeriesView) -> None:
    page = opened(view, init=COUNT)
    _shows(page, view, 13)
    page.wait_for_timeout(300)
    assert page.evaluate("decoded") == 5  # and two to each side
    page.keyboard.press("Home")
    _shows(page, view, 1)
    for number in range(2, SLICES + 1):
        page.keyboard.press("ArrowDown")
        page.wait_for_selector(f'[data-shown="{number - 1}"]')
    assert page.evaluate("decoded") == SLICES
    page.keyboard.press("ArrowUp")
    _shows(page, view, 29)
    assert page.evaluate("decoded") == SLICES  # kept
    page.keyboard.press("Home")
    _shows(page, view, 1)
    assert page.evaluate("decoded") > SLICES  # given up, and decoded anew


def test_a_damaged_slice_is_said_to_be_and_shows_no_other(opened: Callable[..., Page], view: SeriesView) -> None:
    text = series_page(replace(view, maps=None))
    start = text.index('data-slice="3">') + len('data-slice="3">')
    page = opened(view, text[: start + 40] + "AAAA" + text[start + 44 :])
    _shows(page, view, 13)
    page.keyboard.press("Home")
    _shows(page, view, 1)
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.wait_for_selector('[data-part="failure"]:visible')
    assert page.inner_text('[data-part="failure"]').startswith("Slice 4 cannot be shown")
    assert not _canvas(page, "image").any()
    page.keyboard.press("ArrowDown")
    _shows(page, view, 5)
    assert not page.is_visible('[data-part="failure"]')
