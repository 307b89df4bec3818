"""Out-of-fold scores of members and their bag, and the correlations of members."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from src.ensemble.blend import to_logits
from src.evaluate.score import log_loss_by_label
from src.labels import LABELS, WEIGHTS


def score_table(targets: np.ndarray, candidates: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Log losses: a row per candidate, columns `weighted` and LABELS. targets: (N, 6); candidates: (N, 6) by name."""
    rows = {}
    for name, probabilities in candidates.items():
        by_label = log_loss_by_label(targets, probabilities)
        rows[name] = [np.average(by_label, weights=WEIGHTS), *by_label]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["weighted", *LABELS])


def by_classifier(members: Sequence[str], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Each classifier's mean over its epochs: members' names (M,), probabilities (M, N, 6) -> (N, 6) by name."""
    epochs: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(members):
        epochs[name.rpartition(" epoch ")[0]].append(position)
    return {name: probabilities[positions].mean(axis=0) for name, positions in epochs.items()}


def correlation_table(members: Sequence[str], probabilities: np.ndarray) -> pd.DataFrame:
    """Pearson's correlation of members' logits, the mean over labels: probabilities (M, N, 6) -> M x M.

    The less alike two members are, the more their mean gains. Correlations are computed within each label, because
    across labels all members agree on which ones are rare. NaN for a constant member.
    """
    with np.errstate(invalid="ignore"):  # a constant member has no variance to divide by
        of_labels = [np.corrcoef(to_logits(probabilities[..., j])) for j in range(len(LABELS))]
    return pd.DataFrame(np.reshape(np.mean(of_labels, axis=0), (len(members),) * 2), index=members, columns=members)
