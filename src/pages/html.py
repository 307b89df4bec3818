"""HTML documents that carry their style and script, from templates that escape whatever is put into them."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w-]+\.js";\n', flags=re.MULTILINE)


def render(
    template: str, *, scripts: Sequence[str] = (), allow: Mapping[str, str] | None = None, **values: object
) -> str:
    """A whole document from a template of this package that extends page.html.

    scripts: modules of this package that the page runs, imported ones first, such as "viewer.js". Text is escaped;
    `value | tojson` may stand in a script element. The document's Content-Security-Policy allows its own style sheet
    and script, by their hashes, and nothing else: no network, no other script, no form; `allow` has what a page needs
    beyond that, by directive, such as {"img-src": "data:"}.
    """
    # in one inline script the modules stand one after the other, and need not import each other
    style, script = asset("style.css"), "\n".join(_IMPORT.sub("", asset(name)) for name in scripts)
    policy = {
        "default-src": "'none'",
        "script-src": f"'{_hash(script)}'" if script else "'none'",
        "style-src": f"'{_hash(style)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        **(allow or {}),
    }
    page = _environment().get_template(template)
    return page.render(
        policy="; ".join(f"{directive} {sources}" for directive, sources in policy.items()),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        **values,
    )


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
