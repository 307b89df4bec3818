"""What the second stage gains: the whole pipeline on a hard generated competition, judged out of fold.

    python -m benchmarks.second_stage --root FOLDER

The competition was fixed before anything was trained on it: PATIENTS, SLICES, SIZE and SEED below. One classifier, five
folds. Over its networks of epoch 3: a GRU, a transformer, and a GRU that is trained and judged with each slice at
another one's place. Every step goes on where it was; some hour on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import machine
from src.files.layout import Layout

REPOSITORY = Path(__file__).parents[1]
PATIENTS, SLICES, SIZE, SEED = 500, 24, 256, 2019
EPOCHS = (2, 3)
CLASSIFIER = "conf/demo/efficientnet-b2-hard.yaml"
SEQUENCES = [f"conf/demo/sequence/{name}.yaml" for name in ("gru-shuffled", "gru", "transformer")]


def run(*command: str, **environment: str) -> None:
    """Run a command of this repository."""
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)  # noqa: S603 - our own


def main() -> None:
    """Read arguments, run the pipeline, print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_stage", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for all of it, made if missing")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="(default %(default)s)")
    parser.add_argument("--slices", type=int, default=SLICES, help="mean number per series (default %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="rows and columns (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the patients (default %(default)s)")
    parser.add_argument("--folds", nargs="+", default=list("01234"), help="(default %(default)s)")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="(default %(default)s)")
    parser.add_argument("--sequences", type=Path, nargs="+", default=SEQUENCES, help="(default %(default)s)")
    args = parser.parse_args()
    print(machine(), flush=True)
    root, python = args.root.resolve(), sys.executable
    layout, made = Layout(root), root / "generated"
    if not made.exists():
        shutil.rmtree(root / "input", ignore_errors=True)
        what = ("--patients", str(args.patients), "--slices", str(args.slices), "--size", str(args.size))
        more = ("--difficulty", "hard", "--seed", str(SEED))
        run(python, "-m", "src.sample.make_competition", "--output", str(root / "input"), *what, *more)
        made.touch()
    sequences = [Path(each) for each in args.sequences]
    confs = {"CONFS": str(args.classifier), "SEQUENCES": " ".join(map(str, sequences)), "FOLDS": " ".join(args.folds)}
    for script in ("preprocess", "train", "predict", "sequence"):
        run("sh", f"bin/{script}.sh", ICH_ROOT=str(root), **confs)

    classifier = Path(args.classifier).stem
    folders = [layout.fold(classifier, fold) for fold in args.folds]
    rivals = ["--rival", "bag", *(str(each.predictions("valid", epoch)) for each in folders for epoch in EPOCHS)]
    for sequence in sequences:
        over = [layout.fold(f"{classifier}+{sequence.stem}", fold).path for fold in args.folds]
        files = [str(path) for each in over for path in each.glob("valid_epoch*.parquet")]
        rivals += ["--rival", sequence.stem, *files]
    compare = ("--root", str(root), "--resamples", str(args.resamples), "--smooth", "bag")
    run(python, "-m", "src.ensemble.compare", *compare, *rivals, "--output", str(root / "comparison.csv"))


if __name__ == "__main__":
    main()
