"""The report at the competition's size, on one core: tables and predictions that are simulated, without pixels.

    python -m benchmarks.report

Slices, class activation maps and the histogram of HU do not depend on the size: of them a fixed number is shown.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.competition import TRAIN_SLICES
from benchmarks.measure import alone, machine, table
from benchmarks.summary import FOLDS, simulate
from src.ensemble.recipe import Recipe
from src.files.checksum import UNSEALED, file_sha256, write_sealed
from src.files.layout import Layout
from src.files.predictions import write_predictions
from src.files.provenance import Provenance
from src.files.tables import write_table
from src.labels import LABELS
from src.report.make import make_report, write_report

MEMBERS = 4
EPOCHS = 3


def fill(root: Path, slices: int) -> None:
    """Write what a run leaves behind, but for pixels and weights."""
    bag, layout = simulate(root, slices), Layout(root)
    train = pd.read_parquet(layout.table("train"))
    folds = pd.read_parquet(layout.folds)
    series = pd.factorize(train["StudyInstanceUID"])[0]
    z_index = train.groupby(series).cumcount()
    place = {
        "PatientID": folds["PatientID"], "SeriesInstanceUID": train["StudyInstanceUID"], "z": 5.0 * z_index,
        "z_index": z_index.astype(np.int32), "n_slices": train.groupby(series)["ID"].transform("size").astype(np.int32),
        "reason": "", "rows": 512, "columns": 512, "row_spacing": 0.5, "column_spacing": 0.5, "bits_stored": 16,
        "pixel_representation": 1, "position_x": 0.0, "position_y": 0.0, "position_z": 5.0 * z_index,
        "row_cosine_x": 1.0, "row_cosine_y": 0.0, "row_cosine_z": 0.0, "column_cosine_x": 0.0, "column_cosine_y": 1.0,
        "column_cosine_z": 0.0,
    }  # fmt: skip
    write_table(train.assign(**place), layout.table("train"))
    write_table(train.assign(**place).drop(columns=list(LABELS)).head(slices // 6), layout.table("test"))

    probabilities = pd.read_parquet(bag)[list(LABELS)].to_numpy()
    rng = np.random.default_rng(1)
    records = []
    for member in range(MEMBERS):
        noisy = np.clip(probabilities + rng.normal(0, 0.02, probabilities.shape), 0, 1)
        for fold in range(FOLDS):
            held_out = (folds["fold"] == fold).to_numpy()
            of = Provenance(
                conf=f"net{member}", fold=fold, epoch=EPOCHS, checkpoint="c", split="valid", slices="s", tta="Identity"
            )
            folder = layout.fold(of.conf, fold)
            write_predictions(folder.predictions("valid", EPOCHS), train["ID"][held_out], noisy[held_out], of)
            records.append(of.record())
            epochs = {"epoch": range(1, EPOCHS + 1), "lr": 1e-4, "train": 0.1, "valid": 0.1}
            pd.DataFrame({**epochs, "images_per_second": 100.0, "waiting_fraction": 0.1}).to_csv(
                folder.metrics, index=False
            )
    manifest = {
        "recipe": vars(Recipe()),
        "out_of_fold": {},
        "out_of_fold_file": file_sha256(bag),
        "out_of_fold_predictions": records,
        "checksum": UNSEALED,
    }
    write_sealed(layout.submission.with_name("manifest.json"), (json.dumps(manifest, indent=2) + "\n").encode())


def _report(root: Path) -> dict[str, float]:
    """Make and write the report on one core: megabytes of the page, number of files."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    layout = Layout(root)
    report = make_report(layout)
    write_report(report, layout.report)
    return {"page": len(report.page.encode()) / 1e6, "files": len(report.files)}


def main() -> None:
    """Read arguments, simulate, measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=TRAIN_SLICES, help="to simulate (default %(default)s)")
    args = parser.parse_args()
    os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")})  # of the measured process
    print(f"{machine()}; {args.slices} slices, {MEMBERS} members, one core")
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), args.slices)
        seconds, megabytes, found = alone(_report, Path(name))
        table(
            "The report, all imports included",
            ("seconds", "peak MB", "page MB", "files"),
            [(seconds, megabytes, found["page"], found["files"])],
        )


if __name__ == "__main__":
    main()
