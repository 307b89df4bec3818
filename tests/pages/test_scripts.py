"""Modules of pages: joined into one script they mean what they mean as files, and what cannot be joined is refused."""

from pathlib import Path

import pytest

from src.pages.scripts import inline, modules


def _write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_imported_modules_come_first_and_once(tmp_path: Path) -> None:
    folder = _write(
        tmp_path,
        page='/** import */\nimport { b } from "./b.js";\nimport {\n  a,\n} from "./a.js";\n\nb(a);\n',
        b='import { a } from "./a.js";\nexport async function b() {\n  const export_ = a;\n}\n',
        a="export const a = 1; // export\nconst hidden = a;\n",
    )
    assert [*modules(["page.js", "b.js"], folder)] == ["a.js", "b.js", "page.js"]
    assert inline(["page.js", "b.js"], folder) == (
        "const a = 1; // export\nconst hidden = a;\n\n"
        "async function b() {\n  const export_ = a;\n}\n\n"
        "/** import */\n\nb(a);\n"
    )
    assert inline([], folder) == ""


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ('import { page } from "./page.js";\n', "page.js imports page.js; expected no circle"),
        ('import { hidden } from "./a.js";\n', r"page.js imports hidden from a.js, which exports \['a'\]"),
        ('import { a } from "./a.js";\nfunction hidden() {}\n', "page.js and a.js both declare hidden"),
        ('import * as a from "./a.js";\n', "page.js: 'import [*] as a"),
        ('import { a } from "https://example.org/a.js";\n', "page.js: 'import { a } from \"https"),
        ("export default 1;\n", "page.js: 'export default 1;'"),
        ("const a = 1;\nexport { a };\n", "page.js: 'export { a };'"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path: Path, page: str, message: str) -> None:
    folder = _write(tmp_path, page=page, a="export const a = 1;\nconst hidden = a;\n")
    with pytest.raises(ValueError, match=message):
        inline(["page.js"], folder)


def test_every_script_of_the_package_can_be_joined(repository: Path) -> None:
    for path in (repository / "src/pages").glob("*.js"):
        assert inline([path.name])
    assert [*modules(["series.js"])][-2:] == ["viewer.js", "series.js"]


def test_scripts_are_short(repository: Path) -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in (repository / "src/pages").glob("*.js")}
    assert {name: n for name, n in lines.items() if n > 350} == {}
