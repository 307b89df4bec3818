"""What members and their bag would have scored out of fold, and how alike members are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from src.ensemble.blend import to_logits
from src.evaluate.score import log_loss_by_label
from src.labels import LABELS, WEIGHTS


def score_table(targets: np.ndarray, rivals: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Log losses: a row per rival, the columns `weighted` and LABELS. targets: (N, 6); rivals: (N, 6) by name."""
    rows = {}
    for name, probabilities in rivals.items():
        by_label = log_loss_by_label(targets, probabilities)
        rows[name] = [np.average(by_label, weights=WEIGHTS), *by_label]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weighted", *LABELS])


def by_classifier(members: Sequence[str], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Each classifier's mean over its epochs: members' names (M,), probabilities (M, N, 6) -> (N, 6) by name."""
    epochs: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(members):
        epochs[name.rpartition(" epoch ")[0]].append(place)
    return {name: probabilities[places].mean(axis=0) for name, places in epochs.items()}


def correlation_table(members: Sequence[str], probabilities: np.ndarray) -> pd.DataFrame:
    """Pearson's correlation of members' logits, the mean over labels: probabilities (M, N, 6) -> M x M.

    The less two members are alike, the more their mean gains. Within a label, since all members know which labels are
    rare. NaN for a member that says the same of every slice.
    """
    with np.errstate(invalid="ignore"):  # such a member has no variance to divide by
        of_labels = [np.corrcoef(to_logits(probabilities[..., j])) for j in range(len(LABELS))]
    return pd.DataFrame(np.reshape(np.mean(of_labels, axis=0), (len(members),) * 2), index=members, columns=members)
