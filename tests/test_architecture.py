"""The rules that keep the code in shape: layering, style, types, locked requirements, a README that says it all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.dicom import REASONS

TOOLS = Path(sys.executable).parent


def _clean(repository: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_point_downwards(repository: Path) -> None:
    _clean(repository, str(TOOLS / "lint-imports"), "--no-cache")


def test_style(repository: Path) -> None:
    _clean(repository, str(TOOLS / "ruff"), "check", "--no-cache", ".")
    _clean(repository, str(TOOLS / "ruff"), "format", "--no-cache", "--check", ".")


def test_types(repository: Path) -> None:
    _clean(repository, str(TOOLS / "mypy"), "--no-incremental")


def test_nothing_happens_at_import(repository: Path) -> None:
    # a package below classify must not bring torch with it, and none may print, warn or read
    modules = [
        ".".join(path.relative_to(repository).with_suffix("").parts)
        for path in sorted((repository / "src").rglob("*.py"))
        if path.name != "__init__.py" and not {"classify", "sequence"} & {*path.parts}
    ]
    code = f"import sys\nfor name in {modules}: __import__(name)\nassert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=repository, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["requirements", "requirements-dask", "requirements-dev"])
def test_the_lock_pins_and_hashes_the_requirements(repository: Path, name: str) -> None:
    asked = re.findall(r"^([\w-]+)==(\S+)$", (repository / f"{name}.txt").read_text(), flags=re.MULTILINE)
    assert asked
    # what only some need is locked with the tests' requirements
    lock = (repository / f"{name.replace('dask', 'dev')}.lock").read_text()
    locked = {key.lower().replace("_", "-"): rest for key, rest in re.findall(r"^([\w-]+)==(.*)$", lock, re.MULTILINE)}
    for package, version in asked:
        assert locked[package.lower().replace("_", "-")].split()[0] == version, package
    packages = re.split(r"\n(?=[a-z])", lock.split("\n", 1)[1])
    assert all("--hash=sha256:" in package for package in packages)


def test_the_readme_explains_every_package(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    for package in re.findall(r"^([\w-]+)==", (repository / "requirements.txt").read_text(), flags=re.MULTILINE):
        assert f"`{package}`" in readme, package


def test_the_documents_explain_every_reason(repository: Path) -> None:
    text = (repository / "docs/preprocessing.md").read_text()
    for reason in REASONS:
        assert f"| `{reason}` |" in text, reason


def test_the_top_level_is_the_cards(repository: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    card = {"bin", "cache", "conf", "input", "model", "src", "submission", "requirements.txt", "README.md", "LICENSE"}
    around = {"tests", "benchmarks", "docs", "pyproject.toml", ".ci", ".gitignore"}
    around |= {"requirements-dask.txt", "requirements-dev.txt", "requirements.lock", "requirements-dev.lock"}
    assert card <= top
    assert top <= card | around
