"""HTML documents that carry their style and script, from templates that escape whatever is put into them."""

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


def render(template: str, **values: object) -> str:
    """A whole document from a template of this package that extends page.html.

    Text is escaped; `value | tojson` may stand in a script element. The document's Content-Security-Policy allows its
    own style sheet and script, by their hashes, and nothing else: no network, no other script, no form.
    """
    style, script = asset("style.css"), asset("viewer.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page = _environment().get_template(template)
    return page.render(policy=policy, style=Markup(style), script=Markup(script), **values)  # noqa: S704 - our own files


def asset(name: str) -> str:
    """The text of a file of this package, such as "viewer.js"."""
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not a blank
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _hash(text: str) -> str:
    """The hash of an inline element's text, as a Content-Security-Policy writes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
