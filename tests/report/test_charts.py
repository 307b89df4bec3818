import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from src.pages.html import asset
from src.report.blocks import Column, Table
from src.report.charts import BAND, COLOURS, SERIES, drawing, legend, logarithmic, to_png, to_svg


def _chart(title: str) -> str:
    with drawing(title, "x, mm", "y, %") as (figure, axes):
        for i, colour in enumerate(SERIES):
            axes.plot([0, 1], [i, i + 1], "o-", color=colour, label=f"line {i}")
            axes.fill_between([0, 1], i, i + 1, color=colour, alpha=BAND)
        logarithmic(axes)
        legend(axes)
    svg = to_svg(figure, "chart")
    assert to_png(figure)[:4] == b"\x89PNG"
    assert to_svg(figure, "chart") == svg  # also once it was drawn
    return svg


def test_an_svg_obeys_the_policy_of_a_page() -> None:
    svg = _chart("A & <b> $x$")
    assert "<style" not in svg
    assert " style=" not in svg
    assert "A &amp; &lt;b&gt; $x$" in svg  # text, which can be searched and read aloud; no formula
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(str(each).startswith("chart-") for each in ids)
    for reference in re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg):
        assert reference in ids


def test_an_svg_takes_all_of_its_colours_from_the_page() -> None:
    svg = _chart("title")
    colours = set(re.findall(r"#[0-9a-fA-F]{6}", svg))
    assert colours <= set(COLOURS.values())
    style = asset("style.css")
    for name, colour in COLOURS.items():
        assert f"var(--{name}, {colour})" in svg
        assert f"--{name}: {colour};" in style  # the same in a page as in a file of its own


def test_the_same_chart_is_the_same_text() -> None:
    assert _chart("title") == _chart("title")


@pytest.mark.parametrize("background", ["#ffffff", "#171b21"])
def test_lines_have_contrast(background: str) -> None:
    style = asset("style.css")
    light, dark = (dict(re.findall(r"--(series-\d): (#\w{6})", part)) for part in style.split("--series-6", 2)[:2])
    colours = light if background == "#ffffff" else dark
    assert len(colours) == 5  # the sixth ends each part
    for colour in colours.values():
        pair = sorted(_luminance(each) for each in (colour, background))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, colour  # WCAG 2.2 asks for 3 of graphics, 4.5 of text


def _luminance(colour: str) -> float:
    unit = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_cells_are_rounded_and_say_what_is_not_known() -> None:
    nothing = [np.nan, np.nan]
    values = {"a": [0.12345, -0.00001, np.nan], "a_low": [0.1, *nothing], "a_high": [0.2, *nothing]}
    frame = pd.DataFrame({**values, "n": [12345, 1, 0]})
    columns = [Column("a", "a", 2, interval=True), Column("a, %", "a", 1, percent=True), Column("n", "n")]
    assert Table("t", "t", frame, columns).rows == [
        ["0.12 [0.10, 0.20]", "12.3", "12\u202f345"], ["0.00", "0.0", "1"], ["\u2013", "\u2013", "0"]
    ]  # fmt: skip
