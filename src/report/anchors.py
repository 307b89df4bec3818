"""Published figures to stand beside: of the competition, and of other work on the same question."""

import pandas as pd

from src.report.blocks import Column, Table

_COMPETITION = "Kaggle 2019, RSNA Intracranial Hemorrhage Detection"
_BOARD = "private leaderboard, stage 2 test set"
_LOSSES = (
    ("all probabilities 0.5", 0.6931, "any data", "ln 2"),
    ("each label's prevalence for every slice", 0.2320, "stage 1 training set", _COMPETITION),
    ("2D networks, bagged", 0.054, _BOARD, _COMPETITION),
    ("one network with a sequence stage, from", 0.046, _BOARD, _COMPETITION),
    ("one network with a sequence stage, to", 0.050, _BOARD, _COMPETITION),
    ("networks with a stage over adjacent slices", 0.047, _BOARD, _COMPETITION),
    ("winning ensemble", 0.04383, _BOARD, _COMPETITION),
)
_WANG = "Wang et al., NeuroImage: Clinical 32, 2021 (trained on the same public data)"
_CQ500 = "Chilamkurthy et al., Lancet 392, 2018"
_AUCS = (
    ("any", 0.988, "internal", _WANG),
    ("epidural", 0.984, "internal", _WANG),
    ("intraparenchymal", 0.992, "internal", _WANG),
    ("intraventricular", 0.996, "internal", _WANG),
    ("subarachnoid", 0.985, "internal", _WANG),
    ("subdural", 0.983, "internal", _WANG),
    ("any, lowest of the external sets", 0.949, "external", _WANG),
    ("any, highest of the external sets", 0.964, "external", _WANG),
    ("any", 0.94, "external, CQ500", _CQ500),
)
_NOTE = (
    "Others' figures are of other data: the leaderboard's of the test set, whose labels are not public, those of "
    "papers of their own sets. They say what is possible, not who is better. Generated heads compare with none of them."
)


def published_losses() -> Table:
    """Weighted log losses of the competition."""
    frame = pd.DataFrame(_LOSSES, columns=["what", "weighted_log_loss", "data", "source"])
    columns = [
        Column("Weighted log loss of", "what"),
        Column("published", "weighted_log_loss", 4),
        Column("on", "data"),
        Column("source", "source"),
    ]
    return Table("published_losses", "Published log losses", frame, columns, _NOTE, folded=True)


def published_aucs() -> Table:
    """AUCs of detectors in the literature."""
    frame = pd.DataFrame(_AUCS, columns=["label", "auc", "data", "source"])
    columns = [
        Column("Label", "label"),
        Column("AUC, published", "auc", 3),
        Column("data", "data"),
        Column("source", "source"),
    ]
    return Table("published_aucs", "Published AUCs", frame, columns, _NOTE, folded=True)
