"""Preprocessing's tables at the competition's full size: labels, folds, and the directory of Kaggle's zip."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.competition import PATIENTS, PREVALENCE, SLICES, STUDIES, TRAIN_SLICES
from benchmarks.measure import alone, table
from src.dicom.archive import find_members
from src.files.label_csv import pivot_labels
from src.labels import LABELS, row_ids
from src.preprocess.make_folds import make_folds


def full_size(work: Path) -> None:
    """Label CSV, folds and Kaggle's directory at full size, each in a separate process."""
    csv, archive = work / "labels.csv", work / "directory.zip"
    write_labels(csv)
    write_directory(archive)
    rows = []
    seconds, megabytes, found = alone(_pivot, csv)
    rows.append((f"label CSV of {found} rows to a table", seconds, megabytes, ""))
    seconds, megabytes, (inside, worst) = alone(_folds)
    rows.append(
        (f"make_folds, {TRAIN_SLICES} slices of {PATIENTS} patients", inside, megabytes, f"worst deviation {worst:.2%}")
    )
    seconds, megabytes, found = alone(_directory, archive)
    rows.append((f"finding {found} slices in a zip's directory", seconds, megabytes, ""))
    table("At full size", ("what", "seconds", "peak MB", ""), rows)


def _slice_ids(count: int) -> list[str]:
    numbers = np.random.default_rng(0).choice(16**9, count, replace=False)
    return [f"ID_{number:09x}" for number in numbers]


def write_labels(csv: Path) -> None:
    """A label CSV of the competition's size, with its 24 repeated rows."""
    ids = row_ids(pd.Series(_slice_ids(TRAIN_SLICES)))
    labels = (np.random.default_rng(1).random(len(ids)) < 0.06).astype(int)
    rows = pd.DataFrame({"ID": ids, "Label": labels})
    pd.concat([rows, rows.iloc[:24]]).to_csv(csv, index=False)


def write_directory(archive: Path) -> None:
    """A zip with as many members as Kaggle's, all empty."""
    with zipfile.ZipFile(archive, "w") as file:
        for slice_id in _slice_ids(SLICES):
            file.writestr(f"rsna-intracranial-hemorrhage-detection/stage_2_train/{slice_id}.dcm", b"")


def _pivot(csv: Path) -> int:
    found, repeated = pivot_labels(csv, test=False)
    return len(found) * len(LABELS) + repeated


def _directory(archive: Path) -> int:
    return sum(member is not None for member in find_members(archive, [f"{each}.dcm" for each in _slice_ids(SLICES)]))


def _folds() -> tuple[float, float]:
    slices = simulated_slices()
    started = time.perf_counter()
    folds = make_folds(slices)
    seconds = time.perf_counter() - started
    counts = slices[list(LABELS)].groupby(folds["fold"]).sum()
    return seconds, float((counts / counts.mean() - 1).abs().to_numpy().max())


def simulated_slices() -> pd.DataFrame:
    """Slices with the competition's number, patients and prevalence; a bleed is a run of consecutive slices."""
    rng = np.random.default_rng(0)
    patients = np.concatenate([np.arange(PATIENTS), rng.integers(0, PATIENTS, STUDIES - PATIENTS)])
    lengths = np.maximum(20, rng.normal(TRAIN_SLICES / STUDIES, 5, STUDIES).astype(int))
    lengths[: abs(TRAIN_SLICES - lengths.sum())] += np.sign(TRAIN_SLICES - lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    labels = np.zeros((lengths.sum(), len(LABELS)), dtype=np.uint8)
    for name, prevalence in PREVALENCE.items():
        column, wanted = LABELS.index(name), prevalence * len(labels)
        for study in rng.permutation(STUDIES):
            run = min(lengths[study], 1 + rng.poisson(8))
            first = starts[study] + rng.integers(0, lengths[study] - run + 1)
            labels[first : first + run, column] = 1
            wanted -= run
            if wanted <= 0:
                break
    labels[:, 0] = labels[:, 1:].any(axis=1)
    study = np.repeat(np.arange(STUDIES), lengths)
    hashes = np.arange(len(labels))
    hashes[rng.choice(len(labels), 4073, replace=False)] = rng.choice(len(labels), 4073)  # identical images
    return pd.DataFrame(
        {
            "ID": [f"ID_{i:09x}" for i in range(len(labels))],
            "PatientID": np.array([f"ID_{i:08x}" for i in range(PATIENTS)], dtype=object)[patients[study]],
            "pixel_hash": [f"{each:032x}" for each in hashes],
            "brain_share": rng.uniform(0, 0.4, len(labels)),
            **{name: labels[:, i] for i, name in enumerate(LABELS)},
        }
    )
