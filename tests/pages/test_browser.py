"""The page of a series in a real browser: what its canvas shows after keys, clicks, wheels and drags."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Page

from src.ct.windows import Window
from src.pages import SeriesView, series_page
from src.pages.series import WINDOWS
from tests.pages.shown import CHROMIUM, COLUMNS, ROWS, SLICES, WITHOUT, canvas_of, check_shown

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)

STRIP = "document.querySelector('[data-part=strip]').toDataURL()"


def test_the_highest_slice_comes_first_and_keys_scroll(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
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
        check_shown(page, shown_view, number)
    assert "z 0.0 mm" in page.inner_text('[data-part="position"]')
    page.keyboard.press("End")
    check_shown(page, shown_view, 30)
    assert "z unknown" in page.inner_text('[data-part="position"]')


def test_windows_by_key_button_and_number(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    assert [*WINDOWS.values()] == [(40, 80), (80, 200), (40, 380), (600, 2800), (40, 40)]
    for number, window in enumerate(WINDOWS.values(), 1):
        page.keyboard.press(str(number))
        check_shown(page, shown_view, 13, window)
    page.click("button:has-text('Bone')")
    check_shown(page, shown_view, 13, WINDOWS["Bone"])
    assert page.get_attribute("button:has-text('Bone')", "aria-pressed") == "true"
    page.fill('[data-part="level"]', "55")
    page.press('[data-part="level"]', "Enter")
    page.keyboard.press("ArrowUp")  # in a field of numbers: the number, not the slice
    page.press('[data-part="level"]', "Tab")
    check_shown(page, shown_view, 13, Window(56, 2800))
    page.keyboard.press("r")  # in the field too, where it is no number
    page.click("button:has-text('Reset')")
    check_shown(page, shown_view, 13)


def test_wheel_strip_and_drag(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    frame = page.locator('[data-part="frame"]').bounding_box()
    assert frame is not None
    # rows of 1 mm and columns of 0.5 mm: 40 x 60 pixels are 40 x 30 mm
    assert frame["width"] / frame["height"] == pytest.approx(30 / 40, abs=0.01)
    x, y = frame["x"] + frame["width"] * 20.5 / COLUMNS, frame["y"] + frame["height"] * 10.5 / ROWS
    page.mouse.move(x, y)
    assert page.inner_text('[data-part="pointer"]').split() == [
        *(str(shown_view.pixels[12][10, 20]), "HU"),
        *("row", "11,", "column", "21", "↓", "10.0,", "→", "10.0", "mm"),
    ]
    for turn, number in ((120, 14), (-120, 13), (20, 13), (35, 14)):
        page.mouse.wheel(0, turn)
        check_shown(page, shown_view, number)
    assert page.inner_text('[data-part="pointer"]').startswith(f"{shown_view.pixels[13][10, 20]} HU")
    page.mouse.down()
    page.mouse.move(x + 64, y - 32)
    page.mouse.up()
    check_shown(page, shown_view, 14, Window(40 + 10, 80 + 20))  # width / 256 HU a pixel
    assert "Free window" in page.inner_text('[data-part="window"]')
    strip = page.locator('[data-part="strip"]').bounding_box()
    before = page.evaluate(STRIP)
    assert strip is not None
    page.mouse.click(strip["x"] + strip["width"] * 4.5 / SLICES, strip["y"] + 5)
    check_shown(page, shown_view, 5, Window(50, 100))
    assert page.evaluate(STRIP) != before
    assert page.get_attribute('[data-part="strip"]', "aria-valuenow") == "5"


def test_maps_lie_over_the_square_around_the_slice(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    assert not page.is_visible('[data-part="map"]')
    # 40 x 60 in a square of 60: row 3.5 of 8 is 26.25 of 60, less the padding of 10
    for act, label, row, column in (
        (lambda: page.keyboard.press("m"), 0, 3.5 * 60 / 8 - 10, 6.5 * 60 / 8),
        (lambda: page.select_option('[data-part="map-label"]', "5"), 5, 4.5 * 60 / 8 - 10, 1.5 * 60 / 8),
    ):
        act()
        page.wait_for_selector(f'[data-map="12 {label} 0.5"]')
        alpha = canvas_of(page, "map")[..., 3]
        assert 90 < alpha.max() <= 128  # half opaque, less what smoothing takes of a peak
        rows, columns = np.indices(alpha.shape) + 0.5
        centre = (rows * alpha).sum() / alpha.sum(), (columns * alpha).sum() / alpha.sum()
        assert centre == pytest.approx((row, column), abs=1)
    assert "Map: Subdural" in page.inner_text('[data-part="window"]')
    page.fill('[data-part="map-opacity"]', "1")
    page.wait_for_selector('[data-map="12 5 1"]')
    assert 180 < canvas_of(page, "map")[..., 3].max() <= 255
    page.keyboard.press("Home")  # the slider's own key
    page.wait_for_selector('[data-map="12 5 0.1"]')
    page.focus('[data-part="map-on"]')
    page.keyboard.press("ArrowDown")
    check_shown(page, shown_view, 14)
    assert page.get_attribute("main", "data-map") == "13 5 0.1"  # never of another slice than the image
    page.click('[data-part="stage"]')
    page.keyboard.press("m")
    assert not page.is_visible('[data-part="map"]')


COUNT = """
    globalThis.decoded = 0;
    const Real = globalThis.DecompressionStream;
    globalThis.DecompressionStream = class extends Real { constructor(kind) { super(kind); globalThis.decoded++; } };
"""


def test_slices_are_decoded_when_they_are_near_and_kept(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view, init=COUNT)
    check_shown(page, shown_view, 13)
    page.wait_for_timeout(300)
    assert page.evaluate("decoded") == 5  # and two to each side
    page.keyboard.press("Home")
    check_shown(page, shown_view, 1)
    for number in range(2, SLICES + 1):
        page.keyboard.press("ArrowDown")
        page.wait_for_selector(f'[data-shown="{number - 1}"]')
    assert page.evaluate("decoded") == SLICES
    page.keyboard.press("Home")
    check_shown(page, shown_view, 1)
    page.wait_for_timeout(100)
    assert page.evaluate("decoded") == SLICES  # kept, as far as there is room: see the test of 600 slices


def test_a_damaged_slice_is_said_to_be_and_shows_no_other(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    text = series_page(replace(shown_view, maps=None))
    start = text.index('data-slice="3">') + len('data-slice="3">')
    page = opened(shown_view, text[: start + 40] + "AAAA" + text[start + 44 :])
    check_shown(page, shown_view, 13)
    page.keyboard.press("Home")
    check_shown(page, shown_view, 1)
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.wait_for_selector('[data-part="failure"]:visible')
    assert page.inner_text('[data-part="failure"]').startswith("Slice 4 cannot be shown")
    assert not canvas_of(page, "image").any()
    page.keyboard.press("ArrowDown")
    check_shown(page, shown_view, 5)
    assert not page.is_visible('[data-part="failure"]')


def test_a_lone_slice_of_which_nothing_is_known(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    nothing = {"details": [], "warnings": [], "thresholds": {}, "maps": None, "maps_note": "None.", "sides": ""}
    lone = {"spacings": [(np.nan, np.nan)], "z": np.array([np.nan]), "ids": ["1"], "probabilities": np.zeros((1, 6))}
    page = opened(replace(shown_view, pixels=shown_view.pixels[:1], **nothing, **lone))
    page.wait_for_selector('[data-shown="0"]')
    for key in ("ArrowDown", "PageUp", "m", "n"):
        page.keyboard.press(key)
    assert page.inner_text('[data-part="told"]') == "No threshold is given: slice 1 is the highest."
    assert page.inner_text('[data-part="position"]').split("\n") == ["Slice 1 / 1", "z unknown"]
    assert "square pixels" in page.inner_text(".hint")
    box = page.locator('[data-part="frame"]').bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(COLUMNS / ROWS, abs=0.01)
    assert np.abs(canvas_of(page, "image")[..., 0] - np.clip(255 * (shown_view.pixels[0] / 80.0), 0, 255)).max() <= 1
