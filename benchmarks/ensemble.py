"""The whole ensemble step at the competition's size, simulated: from prediction files to a submission.

    python -m benchmarks.ensemble

Two classifiers, five folds, two epochs: twenty files of the test set, four members on the training slices.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from benchmarks.competition import TEST_SLICES, TRAIN_SLICES
from benchmarks.measure import alone, machine, table
from benchmarks.summary import simulate
from src.ensemble.make import make, write
from src.ensemble.manifest import Inputs
from src.ensemble.recipe import Recipe
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.files.tables import read_table, write_table
from src.labels import row_ids

CONFS, EPOCHS = ("se_resnext50_32x4d", "efficientnet-b2"), (2, 3)
RECIPES = (
    Recipe(),
    Recipe(consistent=True),
    Recipe("logit-mean", 5.0),
    Recipe("weights"),
    Recipe("mean", 0.0, "temperature"),
    Recipe("mean", 0.0, "platt"),
    Recipe("mean", 0.0, "isotonic"),
    Recipe("mean", None),
)


def prepare(root: Path, slices: int, test_slices: int) -> Inputs:
    """Write tables and prediction files; each member is a noisy copy of one simulated bag."""
    layout, rng = Layout(root), np.random.default_rng(0)
    bag = pd.read_parquet(simulate(root, slices)).set_index("ID")
    train = read_table(layout.table("train"), [], step="")
    in_fold = read_table(layout.folds, [], step="").set_index("ID")["fold"][bag.index].to_numpy()
    write_table(_with_positions(train, train["StudyInstanceUID"]), layout.table("train"))
    test = pd.DataFrame({"ID": [f"ID_f{i:08x}" for i in range(test_slices)]})
    write_table(_with_positions(test, pd.Series(np.arange(test_slices) // 35)), layout.table("test"))
    layout.store("test").mkdir()
    (layout.store("test") / "rejected.csv").write_text("ID,path,reason,message\n")
    sample = root / "sample.csv"
    pd.DataFrame({"ID": row_ids(test["ID"]), "Label": 0.5}).to_csv(sample, index=False)

    files: dict[str, list[Path]] = {"valid": [], "test": []}
    logits = logit(bag.to_numpy(dtype=np.float64).clip(1e-6, 1 - 1e-6))
    for conf in CONFS:
        for epoch in EPOCHS:
            noisy = expit(logits + rng.normal(scale=0.5, size=logits.shape))
            for fold in np.unique(in_fold).tolist():
                own = in_fold == fold
                given = {
                    "valid": (bag.index[own], noisy[own]),
                    "test": (test["ID"], noisy[rng.integers(len(noisy), size=test_slices)]),
                }
                for split, (ids, probabilities) in given.items():
                    path = layout.fold(conf, fold).predictions(split, epoch)
                    provenance = Provenance(
                        conf=conf, fold=fold, epoch=epoch, checkpoint="c", split=split, slices="s", tta="Identity"
                    )
                    write_predictions(path, ids, probabilities, provenance)
                    files[split].append(path)
    return Inputs(files["test"], files["valid"], sample, root, Recipe())


def _with_positions(frame: pd.DataFrame, series: pd.Series) -> pd.DataFrame:
    """Add the series of each slice and its position: slices are 5 mm apart."""
    order = series.groupby(series.to_numpy()).cumcount()
    return frame.assign(SeriesInstanceUID=series.astype(str), z=order * 5.0, z_index=order.astype(np.int32))


def _make(inputs: Inputs, output: Path) -> None:
    write(make(inputs), inputs, output)


def main() -> None:
    """Read arguments, measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ensemble", description=__doc__)
    parser.add_argument("--slices", type=int, default=TRAIN_SLICES, help="training slices (default %(default)s)")
    parser.add_argument("--test-slices", type=int, default=TEST_SLICES, help="test slices (default %(default)s)")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs = prepare(root, args.slices, args.test_slices)
        rows = []
        for recipe in RECIPES:
            seconds, megabytes, _ = alone(_make, replace(inputs, recipe=recipe), root / "submission" / "s.csv")
            rows.append((recipe.name, seconds, megabytes))
        files = len(inputs.predictions), len(inputs.out_of_fold)
    title = f"The ensemble step: {files[0]} files of {args.test_slices} test slices, {files[1]} out of fold of "
    table(f"{title}{args.slices} training slices", ("recipe", "seconds", "peak MB"), rows)


if __name__ == "__main__":
    main()
