"""The report in a real browser: what moves, for every reader, on paper."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from src.ct.windows import THREE_WINDOWS, apply_windows
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.report.make import Report
from tests.pages.shown import CHROMIUM, DESKTOP, PHONE, WITHOUT, canvas_of
from tests.pages.test_access import COLOURS, _luminance

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def page_file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.page, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Open]:
    """Open the report from disk; in the end nothing may have been complained about, or asked of any other place."""
    seen: list[str] = []
    contexts = []

    def _open(**options: object) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: request.url == page_file.as_uri() or seen.append(request.url[:200]))
        page.goto(page_file.as_uri())
        return page

    yield _open
    for context in contexts:
        context.close()
    # the examples are in the page itself
    assert [each for each in seen if not each.startswith("data:image/png")] == []


def test_a_case_opens_at_its_slice_and_closes_the_one_before(opened: Open, report: Report, complete: Layout) -> None:
    page = opened()
    cases = pd.read_csv(io.BytesIO(report.files["worst_cases.csv"]))
    summaries = page.locator("details.case > summary")
    assert summaries.count() == len(cases)
    store = ImageStore(complete.store("train"))
    for number in (0, 1):
        summaries.nth(number).click()
        at = page.locator("details.case").nth(number).get_attribute("data-at")
        page.wait_for_selector(f'[data-shown="{at}"]')
        assert page.locator("details.case[open]").count() == 1
        assert page.locator('canvas[data-part="image"]').count() == 1
        slice_id = cases["ID"][number]
        assert page.inner_text('[data-part="uid"]') == slice_id
        image = canvas_of(page, "image")
        expected = np.rint(255 * apply_windows(store.hounsfield(slice_id), THREE_WINDOWS[:1])[..., 0])
        assert np.abs(image[..., :3] - expected[..., None]).max() <= 1
    page.keyboard.press("2")
    page.wait_for_selector('[data-window="80 200"]')
    summaries.nth(1).click()
    page.wait_for_selector('canvas[data-part="image"]', state="detached")


def test_keys_scroll_the_page_unless_a_case_has_the_focus(opened: Open) -> None:
    page = opened()
    page.locator("details.case > summary").first.click()
    page.wait_for_selector("[data-shown]")
    shown = page.get_attribute("[data-shown]", "data-shown")
    page.locator(".contents a").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    page.locator("p.made").wait_for()
    assert page.evaluate("window.scrollY") > 1000
    assert page.get_attribute("[data-shown]", "data-shown") == shown


def test_the_slider_takes_rows_of_the_table(opened: Open, report: Report) -> None:
    page = opened()
    frame = pd.read_csv(io.BytesIO(report.files["predictive_values_by_study.csv"]))
    rows = page.locator("tr[data-stop]:visible")
    assert rows.count() == 6
    for stop, prevalence in ((0, 0.01), (len(frame) // 6 - 1, 0.5)):
        page.locator('[data-part="range"]').fill(str(stop))
        assert page.inner_text('[data-part="stop"]') == f"{100 * prevalence:.0f} %"
        of = frame[frame["prevalence"] == prevalence].iloc[0]
        text = rows.first.inner_text()
        for name in ("ppv", "npv"):
            assert (f"{100 * of[name]:.1f}" if of[name] == of[name] else "–") in text  # noqa: RUF001
    page.check('[data-part="all"]')
    assert rows.count() == len(frame)


def test_without_javascript_all_numbers_are_there(opened: Open, report: Report) -> None:
    page = opened(java_script_enabled=False)
    frame = pd.read_csv(io.BytesIO(report.files["predictive_values_by_study.csv"]))
    assert page.locator("tr[data-stop]:visible").count() == len(frame)
    assert page.locator('[data-part="controls"]').is_hidden()
    assert page.locator("noscript").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Open, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details:not(.case)').forEach(each => { each.open = true; })")
    page.locator("details.case > summary").first.click()
    page.wait_for_selector("[data-shown]")
    # text of charts is filled, not coloured
    in_charts = COLOURS.replace("body *", "svg text").replace("style.color", "style.fill")
    colours = page.evaluate(COLOURS.replace('"script, noscript, option"', '"script, noscript, option, svg *"'))
    charts = page.evaluate(in_charts)
    assert len(colours) > 500
    assert len(charts) > 300
    for text, *pair in colours + charts:
        dark, light = sorted(map(_luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, pair)  # WCAG 2.2, 1.4.3, AA


def test_no_width_needs_sideways_scrolling(opened: Open) -> None:
    page = opened()
    page.evaluate("document.querySelectorAll('details:not(.case)').forEach(each => { each.open = true; })")
    page.locator("details.case > summary").first.click()
    page.wait_for_selector("[data-shown]")
    for width in (360, PHONE["width"], 700, 1024, 1440, 2560):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflowing = """[...document.querySelectorAll(".panel, .chart, .key-figures > div, summary, h3, .note")]
            .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.outerHTML.slice(0, 99))"""
        assert page.evaluate(overflowing) == [], width
    page.set_viewport_size(PHONE)
    # text of charts, in CSS pixels on a phone
    sizes = page.evaluate("""[...document.querySelectorAll("svg text")].filter(each => each.checkVisibility())
        .map(each => [each.getScreenCTM(), parseFloat(getComputedStyle(each).fontSize)])
        .map(([to, size]) => size * Math.hypot(to.a, to.b))""")
    assert min(sizes) >= 9


def test_regions_that_scroll_have_names_and_the_keyboard(opened: Open) -> None:
    page = opened()
    unnamed = """[...document.querySelectorAll(".scroll, [role=img]")]
        .filter(each => !each.getAttribute("aria-label")).map(each => each.outerHTML.slice(0, 99))"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(each => each.tabIndex === 0)")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))


def test_on_paper_all_rows_are_there(opened: Open) -> None:
    page = opened(color_scheme="dark", viewport={"width": 720, "height": 1000})
    page.emulate_media(media="print")
    wide = """[...document.querySelectorAll("table, .chart svg, .panel")]
        .filter(each => each.getBoundingClientRect().right > 722).map(each => each.outerHTML.slice(0, 99))"""
    assert page.evaluate(wide) == []
    assert page.locator(".contents").is_hidden()
    rows = page.locator("tr[data-stop]")
    assert page.locator("tr[data-stop]:visible").count() == rows.count()
    assert page.locator('[data-part="controls"]').is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    fill = "getComputedStyle(document.querySelector('svg text')).fill"
    assert page.evaluate(fill) == "rgb(0, 0, 0)"
