"""Measure how fast head CTs are generated, by one process and by all cores, and whether memory stays constant.

python -m benchmarks.synthetic
"""

import argparse
import contextlib
import io
import os
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import alone, machine, table, take_turns
from src.synthetic.make_competition import DIFFICULTIES, make_competition


def generate(patients: int, slices: int, size: int, difficulty: str, jobs: int) -> int:
    """Generate a temporary competition and return its number of slices."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        summary = make_competition(
            Path(folder) / "input", patients=patients, slices=slices, size=size, difficulty=difficulty, jobs=jobs
        )
    return sum(summary.slices.values())


def main() -> None:
    """Read arguments, measure and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__)
    parser.add_argument("--patients", type=int, default=12, help="in the smaller competition (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=30, help="mean number per series (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="rows and columns (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of measured rounds (default: %(default)s)")
    args = parser.parse_args()
    print(machine())
    for difficulty in DIFFICULTIES:
        count = 0

        def run(jobs: int, difficulty: str = difficulty) -> None:
            nonlocal count
            count = generate(args.patients, args.slices, args.size, difficulty, jobs)

        seconds = take_turns({str(jobs): partial(run, jobs) for jobs in sorted({1, os.cpu_count() or 1})}, args.rounds)
        rows = [(jobs, count / each) for jobs, each in seconds.items()]
        table(f"Generating {difficulty} slices of {args.size} x {args.size}", ("processes", "slices per second"), rows)
        memory = []
        for patients in (args.patients, 3 * args.patients):
            _, megabytes, slices = alone(generate, patients, args.slices, args.size, difficulty, 1)
            memory.append((slices, megabytes))
        table("Memory of one process", ("slices", "peak MB"), memory)


if __name__ == "__main__":
    main()
