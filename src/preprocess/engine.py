"""The engine that preprocessing runs on: joblib, in this process or in as many as there are cores."""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from joblib import Parallel, delayed

from src.arguments import positive
from src.progress import progress

ENGINES = ("serial", "loky")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--jobs`."""
    parser.add_argument("--engine", choices=ENGINES, default="loky", help="serial, or loky: processes (default loky)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="workers (default: all cores)")


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    *,
    engine: str,
    jobs: int,
    desc: str,
    unit: str,
    size: Callable[[tuple[Any, ...]], int] = lambda task: 1,
) -> list[Any]:
    """Call `function(*task)` for each task, in parallel, and return the results in the order of the tasks.

    `size(task)` is how many units of progress a task is.
    """
    serial = engine == "serial" or jobs == 1
    parallel = Parallel(n_jobs=1 if serial else jobs, backend=None if serial else engine, return_as="generator")
    results = []
    with progress(desc=desc, total=sum(map(size, tasks)), unit=unit) as shown:
        for task, result in zip(tasks, parallel(delayed(function)(*task) for task in tasks), strict=True):
            results.append(result)
            shown.update(size(task))
    return results
