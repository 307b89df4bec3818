"""Tables for people: in a terminal and in Markdown."""

from collections.abc import Sequence

import pandas as pd


def text_table(frame: pd.DataFrame, digits: int) -> str:
    """A table for a terminal; a dash for NaN."""
    return frame.to_string(float_format=f"{{:.{digits}f}}".format, na_rep="-")


def square_table(frame: pd.DataFrame, digits: int) -> str:
    """A table whose columns are its rows, for a terminal: columns are numbered, which keeps them narrow."""
    numbers = [str(number) for number in range(1, len(frame) + 1)]
    rows = [f"{number} {name}" for number, name in zip(numbers, frame.index, strict=True)]
    return text_table(frame.set_axis(rows, axis=0).set_axis(numbers, axis=1), digits)


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, the first row its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
