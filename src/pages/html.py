"""HTML documents that carry their style and script, from templates that escape whatever is put into them."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from src.pages.scripts import inline

_HERE = Path(__file__).parent


def render(
    template: str | Template, *, scripts: Sequence[str] = (), allow: Mapping[str, str] | None = None, **values: object
) -> str:
    """A whole document from a template of this package that extends page.html.

    scripts: modules of this package that the page runs, such as "series.js"; all that they import comes along. Text is
    escaped; `value | tojson` may stand in a script element. The document's Content-Security-Policy allows its own style
    sheet and script, by their hashes, and nothing else: no network, no other script, no form; `allow` has what a page
    of a server needs beyond that, by directive, such as {"connect-src": "'self'"}.
    """
    style, script = asset("style.css"), inline(scripts)
    return (
        environment()
        .get_template(template)
        .render(
            policy=content_security_policy(scripts, allow),
            style=Markup(style),  # noqa: S704 - our own files
            script=Markup(script),  # noqa: S704
            **values,
        )
    )


def content_security_policy(scripts: Sequence[str] = (), allow: Mapping[str, str] | None = None) -> str:
    """The policy of a document of `render` with these scripts, which a server may also send as a header."""
    script = inline(scripts)
    policy = {
        "default-src": "'none'",
        "script-src": f"'{_hash(script)}'" if script else "'none'",
        "style-src": f"'{_hash(asset('style.css'))}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        **(allow or {}),
    }
    return "; ".join(f"{directive} {sources}" for directive, sources in policy.items())


def asset(name: str) -> str:
    """The text of a file of this package, such as "style.css"."""
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def environment() -> Environment:
    """Where templates of this package are found; what they are given is escaped."""
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
