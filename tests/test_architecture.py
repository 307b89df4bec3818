"""The rules that keep the code in shape: layering, style, types, locked requirements, a README that says it all."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import src
from src.dicom import REASONS

TOOLS = Path(sys.executable).parent
# the last three by the detector
WITH_TORCH = {"train", "classify", "sequence", "detector", "study", "report", "viewer"}
MOST_LINES, MOST_LINES_OF_FUNCTION = 350, 60


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
    # a package below train must not bring torch with it, and none may print, warn or read
    modules = [
        ".".join(path.relative_to(repository).with_suffix("").parts)
        for path in sorted((repository / "src").rglob("*.py"))
        if path.name != "__init__.py" and not WITH_TORCH & {*path.parts}
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
    lock = (repository / f"{name}.lock").read_text()
    locked = {key.lower().replace("_", "-"): rest for key, rest in re.findall(r"^([\w-]+)==(.*)$", lock, re.MULTILINE)}
    for package, version in asked:
        assert locked[package.lower().replace("_", "-")].split()[0] == version, package
    packages = re.split(r"\n(?=[a-z])", lock.split("\n", 1)[1])
    assert all("--hash=sha256:" in package for package in packages)
    # the tests run what the others install
    tested = (repository / "requirements-dev.lock").read_text()
    assert [each for each in re.findall(r"^[\w-]+==\S+", lock, re.MULTILINE) if f"\n{each}" not in f"\n{tested}"] == []


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
    around |= {"CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", ".github", ".pre-commit-config.yaml"}
    around |= {f"requirements{which}.{kind}" for which in ("", "-dask", "-dev") for kind in ("txt", "lock")}
    assert card <= top
    assert top <= card | around


def test_files_and_functions_are_short(repository: Path) -> None:
    long = []
    for folder in ("src", "benchmarks", "tests"):
        for path in sorted((repository / folder).rglob("*.py")):
            text = path.read_text()
            if len(text.splitlines()) > MOST_LINES:
                long.append(f"{path.relative_to(repository)}: {len(text.splitlines())} lines")
            if folder != "src":
                continue
            for node in ast.walk(ast.parse(text)):
                if (
                    isinstance(node, ast.FunctionDef)
                    and (lines := node.end_lineno - node.lineno + 1) > MOST_LINES_OF_FUNCTION
                ):
                    long.append(f"{path.relative_to(repository)}: {node.name} has {lines} lines")
    assert not long


def test_the_library_neither_prints_nor_names_scripts(repository: Path) -> None:
    # outside main(), _parser() and the like, which are the command
    command = {
        "main",
        "engine_arguments",
        "run_command",
        "_parser",
        "_check_arguments",
        "_require_any",
        "_show_choices",
        "_show_results",
        "_show_missing_objects",
        "_server",
        "_send",
        "in_one_line",
        "emit",
        "display",
    }
    found = []
    for path in sorted((repository / "src").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name in command:
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    found.append(f"{path.relative_to(repository)}: {function.name} prints")
                if isinstance(node, ast.Raise) and re.search(r"bin/\w+\.sh|(?<![\w-])--[a-z]", ast.unparse(node)):
                    found.append(f"{path.relative_to(repository)}: {function.name} names a script or a flag")
    assert not found


def test_the_version_is_the_changelogs(repository: Path) -> None:
    version = re.findall(r"^## \[(\d[\d.]*)\]", (repository / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0]
    assert f'\nversion = "{version}"\n' in (repository / "pyproject.toml").read_text()
    assert src.__version__ == version
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (version, "MIT")


def test_the_workflow_runs_what_any_machine_runs(repository: Path) -> None:
    workflow = yaml.safe_load((repository / ".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "bash .ci/run"}


def test_hooks_run_the_locked_tools(repository: Path) -> None:
    asked = set(re.findall(r"^([\w-]+)==", (repository / "requirements-dev.txt").read_text(), flags=re.MULTILINE))
    (hooks,) = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {Path(hook["entry"].split()[0]).name for hook in hooks["hooks"]}
    assert tools == {"ruff", "mypy", "lint-imports"}
    assert {"ruff", "mypy", "import-linter"} <= asked
