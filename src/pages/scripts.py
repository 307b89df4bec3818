"""The scripts of pages: ECMAScript modules without a build step, served as files or joined into one inline script.

A module imports others of this folder by name, one statement a line that starts it:

    import { Kept, inflate } from "./decode.js";

An inline script cannot: it has no address that "./decode.js" would be relative to, and a page that opens from disk may
load no file. There the modules stand one after the other in one script element, imported ones first, without these
statements and without the word `export`. So that they mean the same in both places, names at the top level of modules
must differ, and other forms of import and export are refused.
"""

import re
from collections.abc import Iterable
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+\.js)";\n', flags=re.MULTILINE)
_DECLARATION = re.compile(r"^(export )?(?:async )?(?:class|function|const|let) (\w+)", flags=re.MULTILINE)
_OTHER = re.compile(r"^\s*(?:import\b(?!\()|export\b).*", flags=re.MULTILINE)


def modules(names: Iterable[str], folder: Path = _HERE) -> dict[str, str]:
    """The text of some modules and of all that they import, by name, imported ones first.

    Raises ValueError where a module imports itself by way of others or imports what is not exported, and where two
    modules declare the same name or use a form that cannot be joined.
    """
    found: dict[str, str] = {}
    exported: dict[str, set[str]] = {}
    declared: dict[str, str] = {}

    def add(name: str, importing: tuple[str, ...]) -> None:
        if name in importing:
            raise ValueError(f"{' imports '.join([*importing, name])}; expected no circle")
        if name in found:
            return
        text = (folder / name).read_text(encoding="utf-8")
        for imported, source in _IMPORT.findall(text):
            add(source, (*importing, name))
            for each in filter(None, re.split(r"[\s,]+", imported)):
                if each not in exported[source]:
                    raise ValueError(f"{name} imports {each} from {source}, which exports {sorted(exported[source])}")
        exported[name] = set()
        for export, each in _DECLARATION.findall(text):
            if each in declared:
                raise ValueError(f"{name} and {declared[each]} both declare {each}; expected different names")
            declared[each] = name
            if export:
                exported[name].add(each)
        found[name] = text

    for name in names:
        add(name, ())
    return found


def inline(names: Iterable[str], folder: Path = _HERE) -> str:
    """Some modules and all that they import as the text of one `<script type="module">`. Raises ValueError as above."""
    parts = []
    for name, text in modules(names, folder).items():
        joined = _DECLARATION.sub(lambda match: match[0].removeprefix(match[1] or ""), _IMPORT.sub("", text))
        if other := _OTHER.search(joined):
            expected = 'import { name } from "./file.js"; or an exported class, function, const or let'
            raise ValueError(f"{name}: {other[0].strip()!r}; expected {expected}")
        parts.append(joined)
    return "\n".join(parts)
