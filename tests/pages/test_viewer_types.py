"""Scripts of pages have no build step: its types are in comments, and TypeScript's compiler checks them."""

import shutil
import subprocess
from pathlib import Path

import pytest


def test_the_types_of_scripts_agree(repository: Path) -> None:
    compiler = shutil.which("tsc")
    if not compiler:
        pytest.skip("no TypeScript compiler; npm install --global typescript")
    options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals", "--noUnusedParameters"]
    target = ["--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "esnext"]
    command = [compiler, *options, *target, *sorted(map(str, (repository / "src/pages").glob("*.js")))]
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
