"""One page about a run of the pipeline: data, training, discrimination, calibration, errors, model card.

It is made of what there is so far, and says what would fill the rest. Its tables are written as CSV and its charts as
SVG and PNG into a folder beside it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

import src
from src.arguments import Parser
from src.errors import UserError, first_few, run_command
from src.files.atomic import replacing, replacing_folder
from src.files.layout import Layout
from src.pages.html import render
from src.pages.series import series_values
from src.progress import progress
from src.report.blocks import Case, Cases, Picture, Section
from src.report.calibration import calibration
from src.report.card import card
from src.report.data import data
from src.report.discrimination import discrimination
from src.report.errors import errors
from src.report.headline import headline
from src.report.sources import Sources
from src.report.training import training

_log = logging.getLogger(__name__)

SECTIONS: tuple[Callable[[Sources], Section], ...] = (
    headline,
    data,
    training,
    discrimination,
    calibration,
    errors,
    card,
)
MOST_BYTES = 20_000_000  # of the page
_OF_CASES = 13_000_000  # of these, packed slices: what is left is charts, tables and each viewer's elements
_SUFFIXES = {".csv", ".svg", ".png"}


@dataclass(frozen=True)
class Report:
    """A report in memory: the page, and the files beside it by name."""

    page: str
    files: dict[str, bytes]
    missing: list[str]  # what is not there, a sentence each


def make_report(layout: Layout) -> Report:
    """Make the report of what lies under a root folder. Raises UserError for files that are damaged or disagree."""
    sources = Sources(layout)
    sections = [make(sources) for make in progress(SECTIONS, desc="report", unit="section")]
    files: dict[str, bytes] = {}
    svgs: dict[str, Markup] = {}
    for section in sections:
        for table in section.tables():
            _add(files, f"{table.name}.csv", _csv(table.frame))
        for figure in section.figures():
            for suffix, content in figure.files().items():
                _add(files, f"{figure.name}.{suffix}", content)
            svgs[figure.name] = Markup(files[f"{figure.name}.svg"].decode())  # noqa: S704 - its text is escaped
        for block in section.blocks:
            if isinstance(block, Picture):
                _add(files, f"{block.name}.png", block.png)
    missing = [block.what for section in sections for block in section.blocks if block.kind == "missing"]
    page = render(
        "report.html",
        scripts=["viewer.js", "report.js"],
        allow={"img-src": "data:"},
        title="Report: intracranial hemorrhage on head CT",
        sections=sections,
        svgs=svgs,
        cases=_packed(sections),
        version=src.__version__,
        inline=inline_markdown,
    )
    return Report(page, files, missing)


def write_report(report: Report, output: Path) -> Path:
    """Write the page and, into a folder beside it, its files; each replaces what was there. Returns the folder.

    Raises UserError where the folder holds what is of no report.
    """
    folder = output.with_suffix("")
    if folder.exists():
        foreign = (
            [] if not folder.is_dir() else [each.name for each in folder.iterdir() if each.suffix not in _SUFFIXES]
        )
        if foreign or not folder.is_dir():
            raise UserError(
                f"{folder} is no folder of a report: {first_few(foreign or ['it is a file'])}; expected tables and "
                "charts alone, which are replaced; move it"
            )
    with replacing_folder(folder) as temporary:
        for name, content in report.files.items():
            (temporary / name).write_bytes(content)
    with replacing(output) as temporary:
        temporary.write_text(report.page, encoding="utf-8")
    return folder


def inline_markdown(text: str) -> Markup:
    """Text of a model card as HTML: `**bold**` and code in backticks; all else is escaped."""
    parts = []
    for i, code in enumerate(text.split("`")):
        if i % 2:
            parts.append(Markup("<code>{}</code>").format(code))
        else:
            pieces = code.split("**")
            parts += [
                Markup("<strong>{}</strong>").format(each) if j % 2 else escape(each) for j, each in enumerate(pieces)
            ]
    return Markup("").join(parts)


def _packed(sections: list[Section]) -> list[tuple[Case, dict[str, object]]]:
    """Each case with what the viewer's template takes, smaller where all of them would be too large."""
    cases = [
        case for section in sections for block in section.blocks if isinstance(block, Cases) for case in block.views
    ]
    return [(case, series_values(case.view, _OF_CASES // len(cases))) for case in cases]


def _add(files: dict[str, bytes], name: str, content: bytes) -> None:
    if files.setdefault(name, content) != content:
        raise RuntimeError(f"two tables or charts are named {name}")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def main() -> None:
    """Read the arguments, make the report, write it, and say where it is."""
    parser = Parser(
        prog="python -m src.report.make",
        description=__doc__,
        epilog="example: python -m src.report.make --root /data/ich",
    )
    parser.add_root()
    parser.add_argument("--output", type=Path, help="HTML file to write (default: submission/report.html under --root)")
    args = parser.parse_args()
    layout = Layout(args.root)
    output = args.output or layout.report
    if output.suffix != ".html":
        raise UserError(f"--output {output}: expected a name that ends with .html")
    if not any((args.root / name).is_dir() for name in ("input", "cache", "model", "submission")):
        raise UserError(
            f"{args.root} holds no input, cache, model or submission; expected the pipeline's folder (ICH_ROOT)"
        )
    report = make_report(layout)
    folder = write_report(report, output)
    for each in report.missing:
        print(f"not there yet: {each}")
    print(f"{output}: {len(report.page.encode()) / 1e6:.1f} MB; {len(report.files)} tables and charts in {folder}")


if __name__ == "__main__":
    run_command(main)
