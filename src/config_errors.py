"""What pydantic finds wrong with a conf, in the words of YAML and of conf/."""

import re
from difflib import get_close_matches
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from src.errors import shortened

_MOST_PARTS = 20  # of one line

# terms of pydantic's messages, and the terms of YAML for the same
_WORDS = (
    (r"valid tuple|^Tuple", "list"),
    (r"valid dictionary( or (instance of \w+|object to extract fields from))?", "section of keys"),
    (r"^Value error, ", ""),
)


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """What is wrong with the values of a conf of some kind, in one line."""
    parts = []
    for each in error.errors():
        key, message = ".".join(str(part) for part in each["loc"]), each["msg"]
        if each["type"] == "extra_forbidden":
            known = _known_keys(kind, each["loc"][:-1])
            close = get_close_matches(str(each["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            parts.append(f"unknown key {key}; {hint}")
        elif each["type"] in ("missing", "union_tag_not_found"):
            parts.append(f"key {key}{'' if each['type'] == 'missing' else '.name'} is missing")
        elif each["type"] == "union_tag_invalid":
            parts.append(f"{key}.name: expected one of {each['ctx']['expected_tags']}, found {each['ctx']['tag']!r}")
        elif each["type"] == "too_short" and each["input"]:
            pass  # pydantic's second message about a list with wrong items, after those about the items
        else:
            for found, word in _WORDS:
                message = re.sub(found, word, message)
            parts.append(f"{key}: {message[0].lower()}{message[1:]}, found {shortened(repr(each['input']), 100)}")
    more = f"; and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
    return "; ".join(shortened(part, 300) for part in parts[:_MOST_PARTS]) + more


def _known_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a pydantic location, which has keys, list positions and names of alternatives."""
    section: Any = kind
    for part in location:
        if isinstance(part, int):
            section = get_args(section)[0]
        elif isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[part].annotation
        else:  # one | another, or Annotated[one | another, ...], distinguished by their names
            choices = get_args(section if isinstance(section, UnionType) else get_args(section)[0])
            section = next(each for each in choices if part in get_args(each.model_fields["name"].annotation))
    own = {"name"} if section is kind else set()  # the name of the file, which a conf cannot set
    return sorted(section.model_fields.keys() - own)
