"""Folds for cross-validation: patients never split, every label balanced, the rarest first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.arguments import Parser, natural
from src.errors import UserError, first_few, run_command
from src.files.tables import read_csv, read_table, write_table
from src.labels import LABELS

# A slice with less brain than this is mostly air: equal pixels there do not mean the same head.
MIN_BRAIN_SHARE = 0.02


def make_folds(table: pd.DataFrame, *, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Assign each slice to a fold: (`ID`, `PatientID`, `fold`) in the row order of `table`.

    table: `ID`, `PatientID`, `pixel_hash`, `brain_share` and the six labels; `StudyInstanceUID` where it is known.

    The unit is a group of patients linked by identical slices or a study, usually one patient. Groups are dealt out
    label by label, the rarest label first and the group with most of it first, then those without a bleed. Each goes to
    the fold where it leaves the folds most equal: in every label and in their number of slices, each measured as a
    share of its total. `seed` decides between equals.

    Raises UserError where there are fewer groups than folds.
    """
    groups = linked_patients(table)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    if n_groups < n_folds:
        raise UserError(
            f"{n_groups} groups of patients cannot fill {n_folds} folds; give more patients or a smaller --folds"
        )
    counted = [np.bincount(groups, weights=table[label], minlength=n_groups) for label in LABELS]
    counted.append(np.bincount(groups, minlength=n_groups).astype(float))
    totals = np.array([column.sum() for column in counted])
    shares = np.stack(counted, axis=1) / np.maximum(totals, 1)  # (groups, labels and slices)

    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n_groups)
    fold_of = np.full(n_groups, -1)
    held = np.zeros((n_folds, len(totals)))  # each fold's share of each label and of the slices
    for column in np.argsort(totals, kind="stable"):  # the number of slices, the largest total, comes last
        waiting = shuffled[(fold_of[shuffled] < 0) & (shares[shuffled, column] > 0)]
        for group in waiting[np.argsort(-shares[waiting, column], kind="stable")]:
            # what the sum of squared shares grows by: least where the fold lacks most of what the group brings
            growth = (held * shares[group]).sum(axis=1)
            fold = rng.choice(np.flatnonzero(growth == growth.min()))
            fold_of[group] = fold
            held[fold] += shares[group]
    return pd.DataFrame(
        {
            "ID": table["ID"].to_numpy(),
            "PatientID": table["PatientID"].to_numpy(),
            "fold": fold_of[groups].astype(np.int8),
        }
    )


def linked_patients(table: pd.DataFrame) -> np.ndarray:
    """Which group each slice's patient belongs to: (N,) integers from 0.

    Patients are of one group where a chain of identical slices or of studies links them. Constant or nearly brainless
    slices link nobody.
    """
    patients, _ = pd.factorize(table["PatientID"])
    n_patients = int(patients.max()) + 1 if len(patients) else 0
    # a graph of patients, images and studies: an edge wherever a patient has an image or a study
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
    """Columns that link patients, each with the rows where it does."""
    yield table["brain_share"].to_numpy() >= MIN_BRAIN_SHARE, "pixel_hash"
    if "StudyInstanceUID" in table:
        yield (table["StudyInstanceUID"] != "").to_numpy(), "StudyInstanceUID"


def main() -> None:
    """Read arguments, make the folds, report."""
    parser = Parser(
        prog="python -m src.preprocess.make_folds",
        description=__doc__,
        epilog="example: python -m src.preprocess.make_folds --table cache/train.parquet --store cache/train "
        "--output cache/folds.parquet",
    )
    parser.add_argument("--table", type=Path, required=True, help="the training table that dicom_to_dataframe made")
    parser.add_argument("--store", type=Path, required=True, help="the image store of the same slices")
    parser.add_argument("--output", type=Path, required=True, help="the folds to write, parquet")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    parser.add_argument("--seed", type=natural, default=0, help="decides ties (default 0)")
    args = parser.parse_args()
    if args.folds < 2:
        raise UserError(f"--folds {args.folds}: expected at least 2")
    table = read_table(args.table, ("ID", "PatientID", *LABELS), made_by="src.preprocess.dicom_to_dataframe")
    index = read_table(
        args.store / "index.parquet", ("ID", "pixel_hash", "brain_share"), made_by="src.preprocess.create_dataset"
    )
    rejected = read_csv(args.store / "rejected.csv", ("ID",), dtype={"ID": "str"})
    differing = pd.Index(table["ID"]).symmetric_difference(pd.Index([*index["ID"], *rejected["ID"]]))
    if len(differing):
        raise UserError(
            f"{args.store} is not the store of {args.table}: {len(differing)} slices are in one alone, "
            f"{first_few(differing)}; run src.preprocess.create_dataset on that table"
        )
    stored = table.merge(index[["ID", "pixel_hash", "brain_share"]], on="ID", validate="one_to_one")
    folds = make_folds(stored, n_folds=args.folds, seed=args.seed)
    write_table(folds, args.output)
    print(f"{args.output}: {len(folds)} slices of {folds['PatientID'].nunique()} patients")
    counts = stored[list(LABELS)].assign(slices=1).groupby(folds["fold"]).sum()
    print(counts[["slices", *LABELS]].to_string())


if __name__ == "__main__":
    run_command(main)
