"""Charts: one style, drawn by matplotlib, and SVG that takes its colours from the page it stands in.

Each colour that is drawn is one of COLOURS. In an SVG it becomes a variable of style.css with that colour as what is
taken outside of a page, so that a chart is right on a light and on a dark page, and in a file of its own.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

# by the name of the variable in style.css; text is the ink, line a grid's
COLOURS = {
    "text": "#171c22",
    "muted": "#4d5866",
    "line": "#cdd3da",
    "series-1": "#0b5a9f",
    "series-2": "#b3470b",
    "series-3": "#1f7a4d",
    "series-4": "#8a3fa3",
    "series-5": "#806000",
    "series-6": "#a02c5a",
}
SERIES = [COLOURS[f"series-{i}"] for i in range(1, 7)]
DASHES = ["-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (8, 2))]
TEXT, MUTED, LINE = COLOURS["text"], COLOURS["muted"], COLOURS["line"]
SIZE = (3.5, 2.9)  # inches: as wide as a phone, so that no text is shrunk there
BAND = 0.2  # opacity of intervals
_TICKS = [0, 0.25, 0.5, 0.75, 1]
_UNIT = {"xlim": (-0.01, 1.01), "ylim": (-0.01, 1.01), "xticks": _TICKS, "yticks": _TICKS}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # ... also where a name has dollar signs
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "savefig.transparent": False,
}


@contextmanager
def drawing(
    title: str, x: str, y: str, size: tuple[float, float] = SIZE, *, unit: bool = False
) -> Iterator[tuple[Figure, Axes]]:
    """Draw one chart: yields (figure, axes). x, y: what the axes show, with units. unit: whether both are fractions."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        if title:
            axes.set_title(title)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if unit:
            axes.set(**_UNIT)
        yield figure, axes
        figure.draw_without_rendering()  # while the style holds
        figure.set_layout_engine("none")  # a second layout would differ in the last digits


@contextmanager
def drawing_with_counts(
    title: str, x: str, y: str, counted: str, size: tuple[float, float] = (3.5, 3.9)
) -> Iterator[tuple[Figure, Axes, Axes]]:
    """Draw a chart of two fractions and, above it, counts on a logarithmic scale: yields (figure, axes, its counts)."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        counts, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        counts.set_title(title)
        counts.set_ylabel(counted)
        logarithmic(counts)
        axes.set(xlabel=x, ylabel=y, **_UNIT)
        yield figure, axes, counts
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def legend(axes: Axes) -> None:
    """Name the lines below the chart, where the names hide nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    assert figure is not None  # noqa: S101 - it was drawn into one
    longest = max(map(len, names))
    figure.legend(handles, names, loc="outside lower center", ncols=3 if longest < 12 else 2)


def logarithmic(axes: Axes) -> None:
    """Give the vertical axis a logarithmic scale, with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure) -> bytes:
    """The chart as PNG, in the colours of a light page."""
    with mpl.rc_context(_STYLE):
        return _saved(figure, FigureCanvasAgg, "png", dpi=160, metadata={"Software": None})


def to_svg(figure: Figure, name: str) -> str:
    """The chart as SVG without style elements or attributes, which a page's Content-Security-Policy would forbid.

    name: of its own in the page. The same chart gives the same text.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        saved = _saved(figure, FigureCanvasSVG, "svg", metadata={"Date": None, "Creator": None}, transparent=True)
    for prefix, uri in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(saved)  # noqa: S314 - matplotlib's own
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    root.set("stroke-linejoin", "round")  # which was in the style element
    _without_styles(root)
    _own_ids(root, name)
    text = ElementTree.tostring(root, encoding="unicode")
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    return text


def _saved(figure: Figure, canvas: type, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    canvas(figure)  # becomes the figure's
    figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _without_styles(root: ElementTree.Element) -> None:
    """Turn style attributes into attributes of their own."""
    for element in root.iter():
        style = element.attrib.pop("style", "")
        for name, value in re.findall(r"([\w-]+)\s*:\s*([^;]+)", style):
            if name == "font":
                size, family = re.search(r"([\d.]+px)\s+(.*)", value).groups()  # type: ignore[union-attr]
                element.set("font-size", size)
                element.set("font-family", family)
                if "bold" in value or "700" in value:
                    element.set("font-weight", "bold")
            else:
                element.set(name, value.strip())
        if element.tag == f"{{{_SVG}}}text" and "fill" not in element.attrib:
            element.set("fill", TEXT)


def _own_ids(root: ElementTree.Element, name: str) -> None:
    """Keep only the ids that something refers to, with the chart's name: others would come twice in a page."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    for element in root.iter():
        if (found := element.get("id")) is not None:
            element.attrib.pop("id")
            if found in used:
                element.set("id", f"{name}-{found}")
        for key, value in list(element.attrib.items()):
            if key.endswith("href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif value.startswith("url(#"):
                element.set(key, f"url(#{name}-{value[5:]}")
