"""The ruler: lengths by the slice's own spacing, whatever draws them, kept with their slice, in place at every zoom."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Page

from src.pages import SeriesView
from tests.pages.shown import CHROMIUM, PHONE, SLICES, WITHOUT, check_shown, drag, pixel_at, touch

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)


def _lengths(page: Page) -> list[str]:
    return page.locator('[data-part="rulers"] text').all_text_contents()


def _check_length(text: str, mm: float) -> None:
    """A pixel of the screen is 0.1 mm at most in these tests."""
    number, unit = text.split()
    assert unit == "mm"
    assert float(number) == pytest.approx(mm, abs=0.15)


# rows are 1 mm apart and columns 0.5 mm
GOLDEN = [
    ((10, 10), (10, 50), 20.0),
    ((5, 30), (35, 30), 30.0),
    ((8, 20), (16, 32), 10.0),  # 8 and 6 mm
    ((38, 58), (2, 4), 45.0),  # 36 and 27 mm
]


def test_lengths_have_the_spacing_of_rows_and_of_columns(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    page.keyboard.press("d")
    assert page.get_attribute('[data-part="ruler"]', "aria-pressed") == "true"
    for start, end, mm in GOLDEN:
        drag(page, pixel_at(page, *start), pixel_at(page, *end))
        _check_length(_lengths(page)[-1], mm)
        _check_length(page.inner_text('[data-part="told"]').removeprefix("Ruler: "), mm)
    assert len(_lengths(page)) == len(GOLDEN)
    check_shown(page, shown_view, 13)  # no drag set the window
    page.mouse.move(*pixel_at(page, 20, 20))
    page.mouse.down()
    page.mouse.up()
    assert len(_lengths(page)) == len(GOLDEN)  # a click measures nothing
    page.click('[data-part="ruler"]')
    drag(page, pixel_at(page, 20, 20), pixel_at(page, 20, 40))
    assert len(_lengths(page)) == len(GOLDEN)
    assert page.get_attribute("main", "data-window") != "40 80"  # a drag sets the window again


def _measure_by_keys(page: Page, down: int, right: int) -> None:
    """From the cross, which the first of these keys puts into the middle, or from where it is."""
    page.focus('[data-part="stage"]')
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    for key, steps in (("Down", down), ("Right", right)):
        for press in ["Shift+"] * (steps // 10) + [""] * (steps % 10):
            page.keyboard.press(f"{press}Arrow{key}")
    page.keyboard.press("Enter")


def test_slices_have_their_own_rulers_and_spacing(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    spacings = [(1.0, 0.5)] * 13 + [(2.0, 1.0)] + [(np.nan, np.nan)] * (SLICES - 14)
    page = opened(replace(shown_view, spacings=spacings))
    check_shown(page, shown_view, 13)
    page.keyboard.press("d")
    for number, text in ((13, "5.0 mm"), (14, "10.0 mm"), (15, "7.2 px")):
        check_shown(page, shown_view, number)
        assert _lengths(page) == []
        _measure_by_keys(page, down=4, right=6)  # of (1, 0.5), (2, 1) and unknown mm
        assert _lengths(page) == [text]
        page.mouse.move(*pixel_at(page, 20, 30))
        page.mouse.wheel(0, 120)
    page.mouse.wheel(0, -120)
    check_shown(page, shown_view, 15)
    assert _lengths(page) == ["7.2 px"]
    assert "Pixel spacing is not known" in page.inner_text('[data-part="aspect"]')
    page.keyboard.press("Home")
    check_shown(page, shown_view, 1)
    assert _lengths(page) == []


def test_keys_alone_measure_and_remove(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    page.keyboard.press("d")
    assert "arrow keys" in page.inner_text('[data-part="told"]')
    for length in (1, 2, 3):
        _measure_by_keys(page, down=length, right=0)
    assert _lengths(page) == ["1.0 mm", "2.0 mm", "3.0 mm"]
    # the cross reads HU as the mouse does: from row 21 and column 31 down by 6 and left by 30, to the image's edge
    assert page.inner_text('[data-part="pointer"]').split("\n")[:2] == [
        f"{shown_view.pixels[12][26, 0]} HU",
        "row 27, column 1",
    ]
    page.keyboard.press("Backspace")
    assert _lengths(page) == ["1.0 mm", "2.0 mm"]
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert _lengths(page) == ["1.0 mm", "2.0 mm", "0.5 mm"]  # being drawn
    page.keyboard.press("Escape")
    assert _lengths(page) == ["1.0 mm", "2.0 mm"]
    page.click('[data-part="ruler-undo"]')
    assert _lengths(page) == ["1.0 mm"]
    page.click('[data-part="ruler-clear"]')
    assert _lengths(page) == []
    assert page.is_disabled('[data-part="ruler-undo"]')
    assert page.is_disabled('[data-part="ruler-clear"]')
    page.focus('[data-part="stage"]')
    _measure_by_keys(page, down=1, right=1)
    page.keyboard.press("Shift+Delete")
    assert _lengths(page) == []
    page.keyboard.press("Escape")  # arrows scroll again
    page.keyboard.press("ArrowDown")
    check_shown(page, shown_view, 14)


def test_the_cross_stays_in_sight_when_zoomed(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    for key in "++++++d":
        page.keyboard.press(key)
    _measure_by_keys(page, down=15, right=29)  # from column 21
    stage = page.locator('[data-part="stage"]').bounding_box()
    assert stage is not None
    x, y = pixel_at(page, 20 + 15, 20 + 29)
    assert stage["x"] < x < stage["x"] + stage["width"]
    assert stage["y"] < y < stage["y"] + stage["height"]
    assert page.inner_text('[data-part="pointer"]').split("\n")[:2] == [
        f"{shown_view.pixels[12][35, 49]} HU",
        "row 36, column 50",
    ]


def _end_of_line(page: Page) -> tuple[float, float]:
    """Where the second end of the first ruler is seen."""
    line = page.locator('[data-part="rulers"] line').first
    return tuple(
        page.evaluate(
            """line => { const matrix = line.getScreenCTM();
                const at = new DOMPoint(line.x2.baseVal.value, line.y2.baseVal.value).matrixTransform(matrix);
                return [at.x, at.y]; }""",
            line.element_handle(),
        )
    )


def test_rulers_stay_on_their_pixels_and_ends_can_be_moved(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    page.click('[data-part="ruler"]')
    drag(page, pixel_at(page, 20, 25), pixel_at(page, 20, 35))
    for key in ("+", "+", "+", "Shift+ArrowRight"):
        page.focus('[data-part="fit"]')  # where arrows do not move a cross
        page.keyboard.press(key)
        assert _end_of_line(page) == pytest.approx(pixel_at(page, 20, 35), abs=1)
        _check_length(_lengths(page)[0], 5)
    drag(page, pixel_at(page, 20, 35), pixel_at(page, 20, 37))
    _check_length(_lengths(page)[0], 6)
    assert len(_lengths(page)) == 1
    assert _end_of_line(page) == pytest.approx(pixel_at(page, 20, 37), abs=1)
    drag(page, pixel_at(page, 20, 25), pixel_at(page, -500, -500))  # an end stays within the image
    _check_length(_lengths(page)[0], math.hypot(20.5, 37.5 * 0.5))


def test_a_finger_measures(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view, viewport=PHONE, has_touch=True, is_mobile=True)
    check_shown(page, shown_view, 13)
    page.tap('[data-part="ruler"]')
    start, end = pixel_at(page, 8, 20), pixel_at(page, 16, 32)
    touch(page, [start], [pixel_at(page, 12, 25)], [end])
    _check_length(_lengths(page)[0], 10)
    check_shown(page, shown_view, 13)
    touch(page, [pixel_at(page, 30, 20)], [pixel_at(page, 30, 25)])
    assert len(_lengths(page)) == 2
    # a second finger zooms, and leaves no ruler behind
    x, y = pixel_at(page, 30, 45)
    touch(page, [(x - 9, y)], [(x - 10, y)], [(x - 10, y), (x + 10, y)], [(x - 20, y), (x + 20, y)])
    assert len(_lengths(page)) == 2
