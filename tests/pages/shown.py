"""What a page in a browser shows, read back and compared."""

import base64

import numpy as np
from playwright.sync_api import Page

from src.ct.windows import Window, apply_windows
from src.pages import SeriesView
from src.pages.series import WINDOWS

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
