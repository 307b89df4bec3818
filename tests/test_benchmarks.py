"""The benchmarks run: on little, and without a look at the figures."""

import subprocess
import sys
from pathlib import Path


def test_preprocess(repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.preprocess", "--slices", "30", "--rounds", "1", "--no-full-size"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for title in ("Storing ", "Reading", "Size", "Headers", "Memory", "30 slices on"):
        assert f"\n{title}" in result.stdout
