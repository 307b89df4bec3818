"""Text, YAML and JSON from outside: of bounded size, of plain values, and of text that can be written again."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from src.errors import UserError, shortened

MOST_BYTES = 1 << 20
MOST_YAML_BYTES = 1 << 15  # its parser reads some ten kilobytes a second; a conf takes three
_MOST_VALUES = 10_000
_DEEPEST = 30


def read_text(path: Path, most: int = MOST_BYTES, *, advice: str = "") -> str:
    """The text of a small file in UTF-8. advice: what to do about another. Raises UserError and OSError."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} has more than {most} bytes; expected a small text file{advice}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error}{advice}") from error


def parse_yaml(text: str, source: str, *, advice: str = "") -> Any:
    """The values of a YAML text. source: where it is from. Raises UserError for all that is no plain YAML."""
    if len(text) > MOST_YAML_BYTES:
        raise UserError(f"{source}: {len(text)} characters of YAML; expected {MOST_YAML_BYTES} at most{advice}")
    if _depth(text) > 10 * _DEEPEST:  # the time that its parser takes grows with the square of the depth
        raise UserError(f"{source}: not valid YAML: nested too deeply{advice}")
    try:
        values = yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: nested too deeply{advice}") from None
    except Exception as error:  # besides its own errors, those of what makes numbers and dates of text
        raise UserError(f"{source}: not valid YAML: {shortened(error, 500)}{advice}") from error
    if fault := _fault(values):
        raise UserError(f"{source}: {fault}{advice}")
    return values


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text. Raises ValueError for all that is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _depth(text: str) -> int:
    """How many brackets are open in a text at most, whether they stand in quotes or not."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _fault(values: Any) -> str | None:
    """What is wrong with the values of a document; None where they are few, plain, and of text that can be encoded."""
    waiting, seen = [(values, 0)], 1
    while waiting:
        value, depth = waiting.pop()
        seen += 2 * len(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else 0
        if seen > _MOST_VALUES:  # of aliases, which stand for their anchor's values, a short text can make any number
            return f"more than {_MOST_VALUES} values"
        if depth > _DEEPEST:
            return "nested too deeply"
        if isinstance(value, dict):
            if unlike := [key for key in value if not isinstance(key, str)]:
                return f"keys must be text, found {shortened(repr(unlike[0]))}"
            waiting += [(key, depth + 1) for key in value]
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and not _is_encodable(value):
            return f"{shortened(ascii(value))} is no text that UTF-8 can hold"
        elif isinstance(value, int) and abs(value) > 1 << 64:
            return f"a number of {value.bit_length()} bits; expected 64 at most"
    return None


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
