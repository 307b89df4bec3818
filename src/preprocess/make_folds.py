"""Make folds for cross-validation that never split a patient and balance every label, the rarest first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.arguments import Parser, natural
from src.errors import UserError, first_few, run_command
from src.files.rejected import read_rejected
from src.files.tables import read_table, write_table
from src.labels import LABELS

# A slice with less brain than this is mostly air, where equal pixels do not mean the same head.
MIN_BRAIN_FRACTION = 0.02


def make_folds(table: pd.DataFrame, *, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Assign each slice to a fold: (`ID`, `PatientID`, `fold`) in the row order of `table`.

    table: `ID`, `PatientID`, `pixel_hash`, `brain_share` and the six labels; `StudyInstanceUID` if it is known.

    The unit is a group of patients linked by identical slices or a study, usually one patient. Groups are assigned
    label by label, the rarest label first and the group with most of it first; groups without a bleed come last. Each
    goes to the fold that makes the folds most equal in every label and in the number of slices, each measured as a
    fraction of its total. `seed` breaks ties. Where a PatientID is empty, the study stands for the patient, in the
    result too.

    Raises UserError if there are fewer groups than folds.
    """
    table = table.assign(PatientID=patients_or_studies(table))
    groups = linked_patients(table)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    if n_groups < n_folds:
        unknown = int((table["PatientID"] == "").sum())
        why = (
            f" ({unknown} slices have neither a PatientID nor a StudyInstanceUID, and count as one)" if unknown else ""
        )
        raise UserError(
            f"{n_groups} groups of patients cannot fill {n_folds} folds{why}; give more patients or make fewer folds"
        )
    counted = [np.bincount(groups, weights=table[label], minlength=n_groups) for label in LABELS]
    counted.append(np.bincount(groups, minlength=n_groups).astype(float))
    totals = np.array([column.sum() for column in counted])
    fractions = np.stack(counted, axis=1) / np.maximum(totals, 1)  # (groups, labels and slices)

    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_groups)
    fold_of = np.full(n_groups, -1)
    held = np.zeros((n_folds, len(totals)))  # each fold's fraction of each label and of the slices
    for column in np.argsort(totals, kind="stable"):  # the number of slices, the largest total, comes last
        waiting = shuffled[(fold_of[shuffled] < 0) & (fractions[shuffled, column] > 0)]
        for group in waiting[np.argsort(-fractions[waiting, column], kind="stable")]:
            # growth of the sum of squared fractions: least in the fold that lacks most of what the group adds
            growth = (held * fractions[group]).sum(axis=1)
            fold = rng.choice(np.flatnonzero(growth == growth.min()))
            fold_of[group] = fold
            held[fold] += fractions[group]
    return pd.DataFrame(
        {
            "ID": table["ID"].to_numpy(),
            "PatientID": table["PatientID"].to_numpy(),
            "fold": fold_of[groups].astype(np.int8),
        }
    )


def patients_or_studies(table: pd.DataFrame) -> pd.Series:
    """PatientIDs, and the study in the place of empty ones, which would otherwise be one patient: (N,).

    Slices without either stay together, since any of them may be of the same patient.
    """
    patients = table["PatientID"].fillna("").astype(str)
    studies = table["StudyInstanceUID"].fillna("").astype(str) if "StudyInstanceUID" in table else ""
    return patients.where(patients.str.strip() != "", studies)


def linked_patients(table: pd.DataFrame) -> np.ndarray:
    """The group of each slice's patient: (N,) integers from 0.

    Patients belong to one group if a chain of identical slices or of studies links them. Slices that are constant or
    show almost no brain do not link patients.
    """
    patients, _ = pd.factorize(table["PatientID"])
    n_patients = int(patients.max()) + 1 if len(patients) else 0
    # the nodes of this graph are patients, images and studies; edges join each patient with their images and studies
    ends, nodes = [], n_patients
    for links, name in _links(table):
        values, unique = pd.factorize(table[name].to_numpy()[links])
        ends.append((patients[links], nodes + values))
        nodes += len(unique)
    starts, stops = (np.concatenate(side) for side in zip(*ends, strict=True))
    edges = coo_array((np.ones(len(starts), dtype=np.int8), (starts, stops)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    groups, _ = pd.factorize(component[:n_patients][patients])
    return groups


def _links(table: pd.DataFrame) -> Iterator[tuple[np.ndarray, str]]:
    """The rows and the name of each column that links patients."""
    yield table["brain_share"].to_numpy() >= MIN_BRAIN_FRACTION, "pixel_hash"
    if "StudyInstanceUID" in table:
        yield (table["StudyInstanceUID"] != "").to_numpy(), "StudyInstanceUID"


def main() -> None:
    """Read the arguments, make the folds, and report."""
    parser = Parser(
        prog="python -m src.preprocess.make_folds",
        description=__doc__,
        epilog="example: python -m src.preprocess.make_folds --table cache/train.parquet --store cache/train "
        "--output cache/folds.parquet",
    )
    parser.add_argument("--table", type=Path, required=True, help="training table made by dicom_to_dataframe")
    parser.add_argument("--store", type=Path, required=True, help="image store of the same slices")
    parser.add_argument("--output", type=Path, required=True, help="parquet table of folds to write")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    parser.add_argument("--seed", type=natural, default=0, help="breaks ties (default 0)")
    args = parser.parse_args()
    if args.folds < 2:
        raise UserError(f"--folds {args.folds}: expected at least 2")
    table = read_table(args.table, ("ID", "PatientID", *LABELS), step="preprocess")
    index = read_table(args.store / "index.parquet", ("ID", "pixel_hash", "brain_share"), step="preprocess")
    rejected = read_rejected(args.store)
    differing = pd.Index(table["ID"]).symmetric_difference(pd.Index([*index["ID"], *rejected["ID"]]))
    if len(differing):
        raise UserError(
            f"{args.store} is not the store of {args.table}: {len(differing)} slices are in one alone, "
            f"{first_few(differing)}; run src.preprocess.create_dataset on that table"
        )
    stored = table.merge(index[["ID", "pixel_hash", "brain_share"]], on="ID", validate="one_to_one")
    folds = make_folds(stored, n_folds=args.folds, seed=args.seed)
    write_table(folds, args.output)
    replaced = int((stored["PatientID"] == "").sum())
    note = f"; the study stands for the patient of {replaced} slices without a PatientID" if replaced else ""
    print(f"{args.output}: {len(folds)} slices of {folds['PatientID'].nunique()} patients{note}")
    counts = stored[list(LABELS)].assign(slices=1).groupby(folds["fold"]).sum()
    print(counts[["slices", *LABELS]].to_string())


if __name__ == "__main__":
    run_command(main)
