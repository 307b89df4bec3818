"""How well a detector does on generated heads that it has not seen, by slice and by study: AUC with intervals.

    python -m benchmarks.generated --detector model/pretrained

Heads of another seed, of another matrix, of another slice distance, and of the easy generator, which shares no code for
anatomy with the hard one. None of this is evidence about real studies.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.heads import generate
from benchmarks.measure import machine, table
from src.detector import Detector
from src.evaluate.external import external_figures
from src.evaluate.study import Cases, to_studies
from src.labels import LABELS
from src.progress import progress

SETTINGS: dict[str, tuple[int, int, str]] = {  # mean slices, rows and columns, difficulty
    "as trained, another seed": (24, 256, "hard"),
    "512 x 512": (24, 512, "hard"),
    "40 thin slices": (40, 256, "hard"),
    "easy heads": (12, 256, "easy"),
}


def predict(detector: Detector, patients: int, slices: int, size: int, difficulty: str, seed: int) -> dict[str, Cases]:
    """The cases of a generated competition, by slice and by study."""
    labels, probabilities, of_patient, of_study = [], [], [], []
    heads = generate(patients, slices, size, seed, difficulty)
    for number, head in enumerate(progress(heads, desc=f"{difficulty} heads", unit="study")):
        labels.append(head.labels.astype(np.int64))
        probabilities.append(detector(head.series))
        of_patient += [head.patient] * len(head.labels)
        of_study += [number] * len(head.labels)
    numbers = np.unique(of_patient, return_inverse=True)[1]
    cases = Cases(
        np.concatenate(labels), np.concatenate(probabilities), numbers, np.zeros(len(numbers), dtype=np.int64)
    )
    return {"slice": cases, "study": to_studies(cases, np.array(of_study))}


def rows_of(name: str, levels: dict[str, Cases], detector: Detector) -> list[tuple[object, ...]]:
    """A row for each level: cases, AUC by label, sensitivity and specificity of the label any at Youden's threshold."""
    rows: list[tuple[object, ...]] = []
    for level, cases in levels.items():
        points = {"youden": detector.operating_points.get(level, {}).get("youden", dict.fromkeys(LABELS))}
        found = external_figures(cases.targets.astype(float), cases.probabilities, cases.patients, points)
        by = found.set_index(["label", "metric"])[["value", "low", "high"]]
        negatives = cases.probabilities[cases.targets[:, 0] == 0, 0]
        rows.append(
            (
                name,
                level,
                len(cases.targets),
                *(_cell(by, label, "auc") for label in LABELS),
                _cell(by, "any", "sensitivity"),
                _cell(by, "any", "specificity"),
                round(statistics.median(negatives), 3),
            )
        )
    return rows


def _cell(by: pd.DataFrame, label: str, metric: str) -> str:
    if (label, metric) not in by.index:
        return "-"
    value, low, high = by.loc[[(label, metric)]].iloc[0]
    return "-" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read arguments, predict, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generated", description=__doc__)
    parser.add_argument("--detector", type=Path, default=Path("model/pretrained"), help="(default %(default)s)")
    parser.add_argument("--patients", type=int, default=80, help="of each setting (default %(default)s)")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="(default: all)")
    parser.add_argument("--seed", type=int, default=7, help="of the heads (default %(default)s)")
    args = parser.parse_args(arguments)
    detector = Detector.load(args.detector, runtime="auto")
    rows = []
    for name in args.settings:
        rows += rows_of(name, predict(detector, args.patients, *SETTINGS[name], args.seed), detector)
    print(machine())
    table(
        f"Heads of {args.patients} patients each, seed {args.seed}: AUC by label; the label any at Youden's point",
        ("heads", "level", "cases", *LABELS, "sensitivity", "specificity", "median of negatives"),
        rows,
    )


if __name__ == "__main__":
    main()
