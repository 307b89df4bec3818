"""The page of a series for every reader: on a phone, in light and dark, by the keyboard alone."""

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page

from src.pages import SeriesView
from tests.pages.shown import CHROMIUM, PHONE, WITHOUT, check_shown

if not CHROMIUM:  # the whole file in one line
    pytest.skip(WITHOUT, allow_module_level=True)


def test_a_finger_scrolls(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view, viewport=PHONE, has_touch=True, is_mobile=True)
    check_shown(page, shown_view, 13)
    page.locator('[data-part="stage"]').scroll_into_view_if_needed()
    box = page.locator('[data-part="stage"]').bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = page.context.new_cdp_session(page)
    for kind, down in (("touchStart", 0), ("touchMove", 14), ("touchMove", 40), ("touchEnd", None)):
        points = [] if down is None else [{"x": x, "y": y + down}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    check_shown(page, shown_view, 16)


def test_no_width_needs_sideways_scrolling(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    page.evaluate("document.querySelector('details').open = true")
    for width in (360, PHONE["width"], 700, 961, 1024, 1280, 1440, 2560):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflowing = """[...document.querySelectorAll(".panel, .viewer, .warning, .steps, .top, button")]
            .filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.outerHTML.slice(0, 99))"""
        assert page.evaluate(overflowing) == [], width


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
def test_text_has_contrast(opened: Callable[..., Page], shown_view: SeriesView, scheme: str) -> None:
    page = opened(shown_view, color_scheme=scheme)
    check_shown(page, shown_view, 13)
    page.click("summary")
    page.click('[data-part="ruler"]')  # and so one button is pressed, two are disabled
    colours = page.evaluate(COLOURS)
    assert len(colours) > 60
    for text, *pair in colours:
        dark, light = sorted(map(_luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, pair)  # WCAG 2.2, 1.4.3, AA
    page_is_dark = _luminance(next(pair[1] for text, *pair in colours if text == "Head CT <b>not bold</b>")) < 0.1
    assert page_is_dark == (scheme == "dark")


def test_the_keyboard_reaches_every_control(opened: Callable[..., Page], shown_view: SeriesView) -> None:
    page = opened(shown_view)
    check_shown(page, shown_view, 13)
    page.evaluate("document.querySelector('details').open = true")
    controls = "button:enabled, input, select, summary, [tabindex]"
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
    check_shown(page, shown_view, 14)
