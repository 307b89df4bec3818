"""Zoom and pan: by wheel, keys, buttons and fingers; what is read off the image or lies on it stays right."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Page

from src.pages import SeriesView
from tests.pages.shown import CHROMIUM, COLUMNS, PHONE, ROWS, WITHOUT, box_of, check_shown, drag, pixel_at, touch

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)

WHOLE = (1, 0.5, 0.5)


def _zoom(page: Page) -> tuple[float, ...]:
    """Scale, and the point of the image in the middle as fractions of its size."""
    return tuple(map(float, str(page.get_attribute("main", "data-zoom")).split()))


def _check_readout(page: Page, view: SeriesView, row: int, column: int, number: int = 13) -> None:
    """The mouse at a pixel of the array reads its HU, wherever that is seen."""
    page.mouse.move(*pixel_at(page, row, column))
    hu, place, mm = page.inner_text('[data-part="pointer"]').split("\n")
    assert hu == f"{view.pixels[number - 1][row, column]} HU"
    assert place == f"row {row + 1}, column {column + 1}"
    assert mm == f"↓ {row * 1.0:.1f}, → {column * 0.5:.1f} mm"


def test_the_wheel_with_ctrl_zooms_at_the_pointer(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    place = pixel_at(page, 25, 40)
    page.mouse.move(*place)
    page.keyboard.down("Control")
    for notches in range(1, 9):
        page.mouse.wheel(0, -120)
        page.wait_for_function("s => Math.abs(parseFloat(document.querySelector('main').dataset.zoom) - s) < 0.001",
                               arg=1.25**notches)  # fmt: skip
        filled = 1.25 ** (notches - 1) * 3 / 4 * box_of(page, "stage")[3] >= box_of(page, "stage")[2]
        if filled:  # the pixel stays where it was; before, the image is centred
            assert pixel_at(page, 25, 40) == pytest.approx(place, abs=1)
        else:
            place = pixel_at(page, 25, 40)
            page.mouse.move(*place)
    assert filled
    page.keyboard.up("Control")
    check_shown(page, shown_view, 13)  # not scrolled
    _check_readout(page, shown_view, 25, 40)
    stage, seen = box_of(page, "stage"), page.locator(".seen").bounding_box()
    assert seen is not None
    assert (seen["x"], seen["y"], seen["width"], seen["height"]) == pytest.approx(stage, abs=1)


def test_keys_and_buttons_zoom_and_pan(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    for _ in range(4):
        page.keyboard.press("+")
    page.click('[data-part="enlarge"]')
    page.click('[data-part="reduce"]')
    page.keyboard.press("=")
    page.keyboard.press("-")
    assert _zoom(page) == (pytest.approx(1.5**4, abs=0.01), 0.5, 0.5)
    assert f"Zoom {1.5**4:.1f} ×" in page.inner_text('[data-part="window"]')  # noqa: RUF001 - the sign
    wide, high = box_of(page, "stage")[2:]
    width, height = box_of(page, "frame")[2:]
    for key, (right, down) in {"Right": (1, 0), "Down": (1, 1), "Left": (0, 1), "Up": (0, 0)}.items():
        page.keyboard.press(f"Shift+Arrow{key}")
        expected = 0.5 + right * 0.1 * wide / width, 0.5 + down * 0.1 * high / height
        assert _zoom(page)[1:] == pytest.approx(expected, abs=2e-4)
        for row, column in ((18, 28), (21, 33)):
            _check_readout(page, shown_view, row, column)
    check_shown(page, shown_view, 13)
    page.keyboard.press("ArrowDown")  # the next slice keeps the zoom
    check_shown(page, shown_view, 14)
    assert _zoom(page)[0] == pytest.approx(1.5**4, abs=0.01)
    for back in (
        lambda: page.keyboard.press("0"),
        lambda: page.click('[data-part="fit"]'),
        lambda: page.keyboard.press("r"),
    ):
        page.keyboard.press("+")
        assert _zoom(page)[0] > 1
        back()
        assert _zoom(page) == WHOLE
    page.keyboard.press("-")
    assert _zoom(page) == WHOLE  # smaller would show nothing more
    assert "Zoom" not in page.inner_text('[data-part="window"]')


@pytest.mark.parametrize("how", ["middle", "Shift"])
def test_a_drag_with_the_middle_button_or_shift_pans(
    opened: Callable[..., Page], shown_view: SeriesView, how: str
) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    for _ in range(4):
        page.keyboard.press("+")
    start = pixel_at(page, 20, 30)
    if how == "Shift":
        page.keyboard.down("Shift")
    drag(page, start, (start[0] + 60, start[1] - 40), "middle" if how == "middle" else "left")
    page.keyboard.up("Shift")
    assert pixel_at(page, 20, 30) == pytest.approx((start[0] + 60, start[1] - 40), abs=1)
    check_shown(page, shown_view, 13)  # the window as before
    # never further than to the image's edge
    drag(page, start, (start[0] + 3000, start[1] + 3000), "middle")
    left, top, wide, high = box_of(page, "stage")
    assert box_of(page, "frame")[:2] == pytest.approx((left, top), abs=1)
    drag(page, start, (start[0] - 3000, start[1] - 3000), "middle")
    x, y, width, height = box_of(page, "frame")
    assert (x + width, y + height) == pytest.approx((left + wide, top + high), abs=1)


def test_two_fingers_zoom_and_pan(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view, viewport=PHONE, has_touch=True, is_mobile=True)
    check_shown(page, shown_view, 13)
    x, y = pixel_at(page, 20, 30)
    before = box_of(page, "frame")
    touch(page, [(x - 20, y), (x + 20, y)], [(x - 60, y), (x + 60, y)], [(x - 30, y + 15), (x + 90, y + 15)])
    assert box_of(page, "frame")[2] / before[2] == pytest.approx(3, rel=0.01)
    assert pixel_at(page, 20, 30) == pytest.approx((x + 30, y + 15), abs=2)
    check_shown(page, shown_view, 13)  # neither scrolled nor windowed
    assert page.evaluate("visualViewport.scale") == 1  # the image, not the page
    touch(page, [(x, y)], [(x, y + 14)], [(x, y + 40)])
    check_shown(page, shown_view, 16)  # one finger scrolls at any zoom
    assert page.inner_text('[data-part="pointer"]').split()[1] == "HU"  # of the pixel touched last


def test_the_map_lies_on_its_pixels_at_every_zoom(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    page.keyboard.press("m")
    page.wait_for_selector('[data-map="12 0 0.5"]')
    for keys in ("", "+++", "++"):
        for key in keys:
            page.keyboard.press(key)
        assert box_of(page, "map") == box_of(page, "image") == box_of(page, "frame")


@pytest.mark.parametrize(("column_mm", "bars"), [(0.5, ["1 cm", "5 mm", "2 mm", "1 mm"]), (5, ["10 cm", "5 cm"])])
def test_the_scale_bar_is_as_long_as_it_says(
    opened: Callable[..., Page], shown_view: SeriesView, column_mm: float, bars: list[str]
) -> None:
    page = opened(replace(shown_view, spacings=[(1.0, column_mm)] * len(shown_view.pixels)))
    check_shown(page, shown_view, 13)
    said = []
    for _ in range(7):
        text = page.inner_text('[data-part="scale"]')
        said.append(text)
        mm = float(text.split()[0]) * {"cm": 10, "mm": 1}[text.split()[1]]
        wide = box_of(page, "frame")[2]
        assert box_of(page, "scale")[2] == pytest.approx(wide * mm / (COLUMNS * column_mm), abs=1)
        assert box_of(page, "scale")[2] < 0.36 * box_of(page, "stage")[2]
        page.keyboard.press("+")
    assert [*dict.fromkeys(said)][: len(bars)] == bars


def test_letters_stay_in_sight(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    for _ in range(6):
        left, top, width, height = box_of(page, "stage")
        for letter in page.locator(".letter").all():
            box = letter.bounding_box()
            assert box is not None
            assert left <= box["x"] <= left + width - box["width"]
            assert top <= box["y"] <= top + height - box["height"]
        page.keyboard.press("+")


def test_pixels_are_squares_or_smooth(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    """Two halves of a pixel's border: the same grey within each pixel as squares, a transition where smooth."""
    step = np.zeros((ROWS, COLUMNS), dtype=np.int16)
    step[:, COLUMNS // 2 :] = 80
    page = opened(replace(shown_view, pixels=[step] * len(shown_view.pixels)))
    page.wait_for_selector('[data-shown="12"]')
    for _ in range(5):
        page.keyboard.press("+")
    rendering = "getComputedStyle(document.querySelector('[data-part=image]')).imageRendering"
    assert page.evaluate(rendering) == "auto"
    page.keyboard.press("i")
    assert page.evaluate(rendering) == "pixelated"
    assert page.get_attribute('[data-part="pixels"]', "aria-pressed") == "true"
    page.click('[data-part="pixels"]')
    assert page.evaluate(rendering) == "auto"


def test_zoom_survives_a_change_of_the_windows_size(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    for _ in range(5):
        page.keyboard.press("+")
    for width in (700, 390, 1440):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_timeout(50)
        page.locator('[data-part="stage"]').scroll_into_view_if_needed()
        _check_readout(page, shown_view, 20, 30)
        left, top, wide, high = box_of(page, "stage")
        x, y, width_, height_ = box_of(page, "frame")
        assert x <= left + 1
        assert y <= top + 1
        assert x + width_ >= left + wide - 1
        assert y + height_ >= top + high - 1
