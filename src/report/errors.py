"""Where it fails: the worst slices, what goes together, who agrees, and whether a few patients make most of it."""

import numpy as np
import pandas as pd

from src.ensemble.scores import correlation_table
from src.evaluate.score import log_losses
from src.labels import LABELS, WEIGHTS
from src.report.blocks import Cases, Column, Figure, Missing, Section, Table
from src.report.cases import CASE_COLUMNS, case_views, worst_cases
from src.report.charts import BAND, SERIES, drawing, legend
from src.report.names import LABEL_TITLES
from src.report.sources import Scored, Sources
from src.report.subgroups import GROUP_COLUMNS, by_distance, grouped

_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
MOST_POINTS = 500
_TENTHS = 10


def errors(sources: Sources) -> Section:
    """The section."""
    section = Section("errors", "Errors", "Of the bag, out of fold.")
    scored = sources.scored
    if scored is None:
        section.blocks.append(Missing("No submission has been made and scored out of fold yet.", "ensemble"))
        return section
    section.blocks += _worst(sources, scored)
    section.blocks += [*_by_patient(scored), *_by_place(sources, scored), by_distance(sources, scored)]
    section.blocks += [_together(scored), *_agreement(sources)]
    return section


def _worst(sources: Sources, scored: Scored) -> list[Table | Cases | Missing]:
    headers = sources.headers("train")
    assert headers is not None  # noqa: S101 - without it nothing is scored
    assert sources.operating is not None  # noqa: S101 - of what was scored
    cases = worst_cases(scored, headers, sources.operating[0]["slice"]["youden"])
    columns = [
        Column("Label", "title"),
        Column("error", "kind_title"),
        Column("probability", "probability", 4),
        Column("log loss", "log_loss", 2),
        Column("slice", "ID"),
        Column("patient", "PatientID"),
        Column("fold", "fold"),
        Column("labels of the slice", "labels"),
    ]
    note = (
        "At Youden's threshold of slices: of each label the false negatives with the lowest and the false "
        "positives with the highest probability, at most one of a series. Some will be errors of "
        "the reference, not of the networks."
    )
    assert {column.name for column in columns} <= {*CASE_COLUMNS}  # noqa: S101
    table = Table("worst_cases", "The worst false negatives and false positives", cases, columns, note, folded=True)
    if not len(cases):
        return [table]
    if not (sources.layout.store("train") / "index.parquet").is_file():
        return [table, Missing("The slices cannot be shown: their image store is not there.", "preprocess")]
    views, about = case_views(cases, sources, scored)
    return [Cases(views, "The worst false negatives and false positives", f"{note} {about}"), table]


def _by_patient(scored: Scored) -> list[Table]:
    """Which fraction of the loss which fraction of the patients has, those with the largest loss first."""
    patients = np.unique(scored.truth.patients, return_inverse=True)[1]
    losses = np.average(log_losses(scored.truth.targets, scored.probabilities), axis=1, weights=WEIGHTS)
    by_patient = np.sort(np.bincount(patients, weights=losses))[::-1]
    total = np.append(0, np.cumsum(by_patient)) / by_patient.sum()
    at = np.unique(np.linspace(0, len(by_patient), min(MOST_POINTS, len(by_patient) + 1)).astype(int))
    curve = pd.DataFrame({"patients": at, "fraction_of_patients": at / len(by_patient), "fraction_of_loss": total[at]})
    counts = np.unique([max(1, round(share * len(by_patient))) for share in _SHARES])
    table = pd.DataFrame(
        {"patients": counts, "fraction_of_patients": counts / len(by_patient), "fraction_of_loss": total[counts]}
    )
    with drawing("", "% of patients, worst first", "% of the weighted log loss") as (figure, axes):
        axes.plot(
            100 * curve["fraction_of_patients"], 100 * curve["fraction_of_loss"], color=SERIES[0], label="observed"
        )
        axes.plot([0, 100], [0, 100], color=SERIES[1], linestyle=":", linewidth=1, label="all alike")
        legend(axes)
    alt = "The fraction of the loss that the patients with the largest losses have together."
    columns = [
        Column("Patients with the largest losses", "patients"),
        Column("% of patients", "fraction_of_patients", 1, percent=True),
        Column("% of the loss", "fraction_of_loss", 1, percent=True),
    ]
    return [
        Table(
            "loss_by_patient",
            "Is it a few patients?",
            table,
            columns,
            "The loss of a patient is summed over their slices.",
            beside=[Figure("loss_by_patient", "Loss by patient", alt, "loss_by_patient_curve", figure)],
        ),
        Table("loss_by_patient_curve", "Loss by patient", curve),
    ]


def _by_place(sources: Sources, scored: Scored) -> list[Table]:
    """The loss along the head, in tenths of a series."""
    headers = sources.headers("train")
    if headers is None or not {"z_index", "n_slices"} <= {*headers.columns}:
        return []
    placed = headers.set_index("ID").loc[scored.truth.ids, ["z_index", "n_slices", "z"]]
    relative = (placed["z_index"] + 0.5) / placed["n_slices"].clip(lower=1)
    known = placed["z"].notna().to_numpy() & (placed["z_index"] >= 0).to_numpy()
    groups = np.where(known, np.clip((relative * _TENTHS).astype(int), 0, _TENTHS - 1), -1)
    frame = grouped(scored, groups, [f"{10 * i} to {10 * i + 10} %" for i in range(_TENTHS)])
    frame = frame[frame["slices"] > 0].reset_index(drop=True)
    if not len(frame):
        return []
    with drawing("", "% of the series, from the lowest z", "weighted log loss") as (figure, axes):
        x = [5 + 10 * int(name.split()[0]) / 10 for name in frame["group"]]
        axes.fill_between(x, frame["log_loss_low"], frame["log_loss_high"], color=SERIES[0], alpha=BAND, linewidth=0)
        axes.plot(x, frame["log_loss"], "o-", color=SERIES[0])
        axes.set(xlim=(0, 100))
        axes.set_ylim(bottom=0)
    alt = "Weighted log loss by the place of a slice in its series."
    note = "z grows towards the head in the competition's data: 0 % is the base of the skull, 100 % the vertex."
    return [
        Table(
            "loss_by_z",
            "Loss along the head",
            frame,
            GROUP_COLUMNS,
            note,
            beside=[Figure("loss_by_z", "Loss along the head", alt, "loss_by_z", figure)],
        )
    ]


def _together(scored: Scored) -> Table:
    """How many slices have both of two labels, and which fraction of those with the first."""
    targets = scored.truth.targets.astype(np.int64)
    both = targets.T @ targets
    with np.errstate(invalid="ignore"):
        fractions = both / np.diag(both)[:, None]
    frame = pd.DataFrame({"label": LABELS, "title": [LABEL_TITLES[label] for label in LABELS], "slices": np.diag(both)})
    for j, label in enumerate(LABELS):
        frame[label], frame[f"slices_{label}"] = fractions[:, j], both[:, j]
    columns = [Column("Of slices with", "title"), Column("slices", "slices")]
    columns += [Column(f"{LABEL_TITLES[label]}, %", label, 1, percent=True) for label in LABELS]
    return Table("co_occurrence", "Labels that come together, % of the slices of the row's label", frame, columns)


def _agreement(sources: Sources) -> list[Table]:
    """Correlation of members' logits."""
    members = sources.members
    if members is None or len(members.names) < 2:
        return []
    found = correlation_table(members.names, members.probabilities)
    frame = found.set_axis([f"member_{i + 1}" for i in range(len(found))], axis=1).reset_index(names="member")
    frame.insert(0, "number", range(1, len(frame) + 1))
    columns = [Column("No.", "number"), Column("member", "member")]
    columns += [Column(str(i + 1), f"member_{i + 1}", 3) for i in range(len(found))]
    note = "Pearson's correlation of logits within labels: the less alike members are, the more their mean gains."
    return [Table("agreement", "Agreement of members", frame, columns, note)]
