"""What a page in a browser shows, read back and compared."""

import base64
import shutil
from collections.abc import Sequence
from typing import Literal

import numpy as np
from playwright.sync_api import Page

from src.ct.windows import Window, apply_windows
from src.pages import SeriesView
from src.pages.series import WINDOWS

Point = tuple[float, float]
CHROMIUM = shutil.which("chromium")
WITHOUT = "no chromium to open pages in; on Debian: apt-get install chromium"
SLICES, ROWS, COLUMNS = 30, 40, 60
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def canvas_of(page: Page, name: str) -> np.ndarray:
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


def check_shown(page: Page, view: SeriesView, number: int, window: Window = WINDOWS["Brain"]) -> None:
    """The image is slice `number`, from 1, through a window, and the page says so."""
    page.wait_for_selector(f'[data-shown="{number - 1}"][data-window="{window.level} {window.width}"]')
    expected = np.rint(255 * apply_windows(view.pixels[number - 1], (window,))[..., 0])
    image = canvas_of(page, "image")
    assert image.shape[:2] == expected.shape
    assert np.abs(image[..., :3] - expected[..., None]).max() <= 1
    assert (image[..., 3] == 255).all()
    assert f"Slice {number} / {SLICES}" in page.inner_text('[data-part="position"]')


def box_of(page: Page, name: str, within: str = "") -> tuple[float, float, float, float]:
    """Left, top, width and height of an element by its data-part, in CSS pixels of the window."""
    box = page.locator(f'{within} [data-part="{name}"]').first.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def pixel_at(page: Page, row: float, column: float, within: str = "") -> Point:
    """Where the centre of a pixel of a slice of ROWS x COLUMNS is seen, from row 0 and column 0."""
    left, top, width, height = box_of(page, "frame", within)
    return left + width * (column + 0.5) / COLUMNS, top + height * (row + 0.5) / ROWS


def drag(page: Page, start: Point, end: Point, button: Literal["left", "middle"] = "left") -> None:
    """With the mouse, in two steps."""
    page.mouse.move(*start)
    page.mouse.down(button=button)
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up(button=button)


def touch(page: Page, *steps: Sequence[Point]) -> None:
    """Fingers go down at the places of the first step, move to those of the others, and are lifted."""
    fingers = page.context.new_cdp_session(page)
    for i, places in enumerate(steps):
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": points})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
