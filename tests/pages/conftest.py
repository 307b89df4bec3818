"""A real browser for the tests of pages, and a series to show in it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from src.pages import SeriesView, series_page
from tests.pages.shown import COLUMNS, DESKTOP, ROWS, SLICES


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
def shown_view() -> SeriesView:
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
