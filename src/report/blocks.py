"""What a section of the report is made of: tables, figures, key figures and sentences."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from src.labels import LABELS
from src.pages.series import LABEL_NAMES, SeriesView
from src.report.charts import to_png, to_svg

_NAME = re.compile(r"[a-z0-9_]+")
UNKNOWN = "–"  # noqa: RUF001 - a dash for values that are not defined


@dataclass(frozen=True)
class Column:
    """How a column of a table is shown.

    digits: decimals of a number, None for text and whole numbers. interval: whether the columns `<name>_low` and
    `<name>_high` are shown with it, in brackets. percent: whether a fraction is shown in percent.
    """

    title: str
    name: str
    digits: int | None = None
    interval: bool = False
    percent: bool = False

    def cell(self, row: "pd.Series[Any]") -> str:
        """The text of the column in a row of the table."""
        value = row[self.name]
        if value is None or value is pd.NA or value == "" or (isinstance(value, float) and np.isnan(value)):
            return UNKNOWN
        if self.digits is None:
            whole = isinstance(value, int | float | np.number) and float(value).is_integer()
            return f"{int(value):,}".replace(",", "\u202f") if whole and not isinstance(value, str) else str(value)
        text = self._number(value)
        if not self.interval or not np.isfinite(row[f"{self.name}_low"]):
            return text
        return f"{text} [{self._number(row[f'{self.name}_low'])}, {self._number(row[f'{self.name}_high'])}]"

    def _number(self, value: float) -> str:
        text = f"{100 * value if self.percent else value:.{self.digits}f}"
        return (text.lstrip("-") if not float(text) else text).replace("-", "\u2212")


@dataclass(frozen=True)
class Table:
    """A table, which is also written as CSV. name: of its file; title: what it shows, with units.

    columns: those that are shown; empty for a table that is only written, because a figure shows it. note: how to read
    it. folded: whether it is opened by a click. beside: charts that show the same.
    """

    kind: ClassVar = "table"

    name: str
    title: str
    frame: pd.DataFrame
    columns: Sequence[Column] = ()
    note: str = ""
    folded: bool = False
    beside: "Sequence[Figure]" = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a file")

    @property
    def numeric(self) -> list[bool]:
        """Which of the columns that are shown hold numbers."""
        return [
            column.digits is not None or pd.api.types.is_numeric_dtype(self.frame[column.name])
            for column in self.columns
        ]

    @property
    def rows(self) -> list[list[str]]:
        """The cells that are shown."""
        return [[column.cell(row) for column in self.columns] for _, row in self.frame.iterrows()]


@dataclass(frozen=True)
class Figure:
    """A chart. name: of its files; title: what it shows; alt: the same for those who cannot see it; of: the table that
    its numbers come from.
    """

    name: str
    title: str
    alt: str
    of: str
    drawing: Drawing

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a file")

    def files(self) -> dict[str, bytes]:
        """The chart as files, by suffix."""
        return {"svg": to_svg(self.drawing, self.name).encode(), "png": to_png(self.drawing)}


@dataclass(frozen=True)
class Group:
    """Figures side by side. title: what they have in common; note: how to read them."""

    kind: ClassVar = "group"

    title: str
    figures: Sequence[Figure]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """Pixels, as a PNG. name: of its file; width, height: in pixels; columns: what is in columns of equal width."""

    kind: ClassVar = "picture"

    name: str
    title: str
    alt: str
    png: bytes
    width: int
    height: int
    columns: Sequence[str] = ()

    @property
    def base64(self) -> str:
        """The file as text."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Key:
    """A key figure: a cell of a table, large. `column` and `row` say which."""

    title: str
    table: Table
    row: int
    column: Column
    note: str = ""

    @property
    def text(self) -> str:
        """Its cell."""
        return self.column.cell(self.table.frame.iloc[self.row])


@dataclass(frozen=True)
class Slider:
    """A table that a slider takes rows of, those with one value of the column `by`; without a script all are shown."""

    kind: ClassVar = "slider"

    table: Table
    by: str
    title: str

    @property
    def stops(self) -> list[tuple[str, list[int]]]:
        """The text of each value of `by`, in the table's order, and the rows that have it."""
        column = next(each for each in self.table.columns if each.name == self.by)
        rows: dict[str, list[int]] = {}
        for number, (_, row) in enumerate(self.table.frame.iterrows()):
            rows.setdefault(column.cell(row), []).append(number)
        return list(rows.items())

    @property
    def stop_of_row(self) -> list[int]:
        """The number of each row's stop, from 0."""
        by_row = {row: number for number, (_, rows) in enumerate(self.stops) for row in rows}
        return [by_row[row] for row in range(len(self.table.frame))]


@dataclass(frozen=True)
class Cases:
    """Slices to open in a viewer, each with the adjacent ones."""

    kind: ClassVar = "cases"

    views: Sequence["Case"]
    title: str
    note: str


@dataclass(frozen=True)
class Case:
    """One of them. view: what the viewer shows; row: of the table of worst cases; facts: its cells, by title.

    at: the slice in question, from 0.
    """

    view: SeriesView
    label: str
    kind: str
    facts: Sequence[tuple[str, str]]
    at: int

    @property
    def title(self) -> str:
        """The label, for people."""
        return LABEL_NAMES[self.label]

    @property
    def number(self) -> int:
        """The label's, from 0."""
        return LABELS.index(self.label)


@dataclass(frozen=True)
class Words:
    """Paragraphs, and lists where a paragraph is a sequence."""

    kind: ClassVar = "words"

    paragraphs: Sequence[str | Sequence[str]]
    title: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Missing:
    """What is not there. what: one sentence; step: of the pipeline, which fills it, such as "train"."""

    kind: ClassVar = "missing"

    what: str
    step: str


@dataclass
class Section:
    """A section. key: of its anchor; about: one sentence under its title."""

    key: str
    title: str
    about: str = ""
    keys: list[Key] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)

    def tables(self) -> list[Table]:
        """All of its tables, each once."""
        found = [block for block in self.blocks if isinstance(block, Table)]
        found += [block.table for block in self.blocks if isinstance(block, Slider)]
        found += [key.table for key in self.keys]
        return list({table.name: table for table in found}.values())

    def figures(self) -> list[Figure]:
        """All of its charts."""
        found = [figure for block in self.blocks if isinstance(block, Group) for figure in block.figures]
        return found + [figure for table in self.tables() for figure in table.beside]
