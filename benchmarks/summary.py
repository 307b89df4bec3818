"""The summary of out-of-fold predictions at the competition's size, on one core.

    python -m benchmarks.summary

Compared with what a user would run instead: scikit-learn's AUC and average precision, where each slice has the weight
of its patient.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.competition import PATIENTS, PREVALENCE, STUDIES, TRAIN_SLICES
from benchmarks.measure import alone, machine, table, take_turns
from src.evaluate.intervals import Ranking
from src.evaluate.out_of_fold import read_truth
from src.evaluate.summary import average, read_sources, summarise, to_levels
from src.files.layout import Layout
from src.files.tables import write_table
from src.labels import LABELS, SUBTYPES

FOLDS = 5


def simulate(root: Path, slices: int) -> Path:
    """Write the tables and a bag's predictions of some slices, with patients and studies in proportion."""
    rng = np.random.default_rng(0)
    patients, studies = (max(FOLDS, round(slices * number / TRAIN_SLICES)) for number in (PATIENTS, STUDIES))
    patient_of_study = np.concatenate([np.arange(patients), rng.integers(patients, size=studies - patients)])
    study = np.sort(rng.integers(studies, size=slices))
    patient = patient_of_study[study]
    # a bleed is in a third of the slices of a study that has it
    prevalence = np.array([PREVALENCE[label] for label in SUBTYPES])
    bleeds = (rng.random((studies, len(SUBTYPES))) < 3 * prevalence)[study] & (
        rng.random((slices, len(SUBTYPES))) < 1 / 3
    )
    targets = np.column_stack([bleeds.any(axis=1), bleeds]).astype(np.uint8)
    # some patients are harder than others, so that errors on their slices are correlated
    noise = rng.normal(size=(patients, len(LABELS)))[patient] + rng.normal(size=targets.shape)
    probabilities = (1 / (1 + np.exp(5 - 5.0 * targets - noise))).astype(np.float32)

    ids = [f"ID_{i:09x}" for i in range(slices)]
    names = [f"ID_{i:08x}" for i in patient]
    labels = dict(zip(LABELS, targets.T, strict=True))
    layout, predictions = Layout(root), root / "submission" / "out_of_fold.parquet"
    write_table(pd.DataFrame({"ID": ids, "StudyInstanceUID": [f"ID_{i:010x}" for i in study], **labels}),
                layout.table("train"))  # fmt: skip
    write_table(pd.DataFrame({"ID": ids, "PatientID": names, "fold": patient % FOLDS}), layout.folds)
    write_table(pd.DataFrame({"ID": ids, **dict(zip(LABELS, probabilities.T, strict=True))}), predictions)
    return predictions


def _summary(root: Path, predictions: Path) -> dict[str, float]:
    """All that the command does except printing, on one core: the seconds of its parts."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    started = time.perf_counter()
    layout = Layout(root)
    truth = read_truth(layout)
    ids, probabilities = average(read_sources([predictions], layout, [], truth))
    levels = to_levels(truth.of(ids), probabilities)
    seconds = {"reading": time.perf_counter() - started}
    for level, cases in levels.items():
        started = time.perf_counter()
        summarise(level, cases)
        seconds[level] = time.perf_counter() - started
    return seconds


def _ranking_seconds(root: Path, predictions: Path) -> dict[str, float]:
    """The seconds of one label with some patients left out, with and without scikit-learn."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    layout = Layout(root)
    truth = read_truth(layout)
    ids, probabilities = average(read_sources([predictions], layout, [], truth))
    cases = to_levels(truth.of(ids), probabilities)["slice"]
    weights = np.random.default_rng(0).integers(2, size=cases.n_patients)
    columns = cases.targets[:, 0], cases.probabilities[:, 0]
    ranking = Ranking(*columns, cases.patients)

    def scikit_learn() -> list[float]:
        counts = weights[cases.patients]
        return [score(*columns, sample_weight=counts) for score in (roc_auc_score, average_precision_score)]

    np.testing.assert_allclose(ranking(weights), scikit_learn(), rtol=1e-9)
    return take_turns({"scikit-learn": scikit_learn, "Ranking": lambda: ranking(weights)}, rounds=3)


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=TRAIN_SLICES, help="to simulate (default %(default)s)")
    args = parser.parse_args()
    os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")})  # of the measured processes
    print(f"{machine()}; {args.slices} slices, one core")
    with tempfile.TemporaryDirectory() as name:
        predictions = simulate(Path(name), args.slices)
        seconds, megabytes, parts = alone(_summary, Path(name), predictions)
        table(
            "The summary, all imports included in the memory",
            ("what", "seconds", "peak MB"),
            [("all of it", seconds, megabytes), *((part, each, "") for part, each in parts.items())],
        )
        _, _, candidates = alone(_ranking_seconds, Path(name), predictions)
        table(
            "AUC and average precision of the label any, some patients left out",
            ("what", "ms", "times as fast"),
            [(what, 1000 * each, candidates["scikit-learn"] / each) for what, each in candidates.items()],
        )


if __name__ == "__main__":
    main()
