"""Yes or no from a probability: thresholds, and what such answers are worth where bleeds are rarer or more frequent."""

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from src.evaluate.study import Cases
from src.labels import LABELS


def youden_threshold(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold of the largest sensitivity + specificity - 1; NaN for targets that are all 0 or all 1.

    targets, probabilities: (N,). The threshold is one of the probabilities; a case is called positive where its own is
    at least that. Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
    """
    if not 0 < targets.sum() < len(targets):
        return np.nan
    false_positives, true_positives, thresholds = roc_curve(targets, probabilities)
    # the first threshold is infinite: it calls nobody positive
    return float(thresholds[1:][np.argmax((true_positives - false_positives)[1:])])


def thresholds_from_other_folds(cases: Cases) -> pd.DataFrame:
    """Each fold's thresholds, fixed on the cases of the other folds: a row per fold, columns LABELS.

    A threshold chosen on the cases that it is judged on flatters itself. NaN where the other folds have a label never
    or always; with one fold alone, which has no others, that is all of them.
    """
    rows = {}
    for fold in np.unique(cases.folds):
        others = cases.folds != fold
        pairs = zip(cases.targets[others].T, cases.probabilities[others].T, strict=True)
        rows[fold] = [youden_threshold(*pair) for pair in pairs]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(LABELS), dtype=np.float64)


def predictive_values(
    sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """The share of positive answers, and of negative ones, that are right where a label has this prevalence.

    PPV and NPV by Bayes' theorem, each of the shape of the two arguments; NaN where no such answer is ever given. They
    hold where bleeds are as easy to see as here and only their number differs.
    """
    ill, well = prevalence, 1 - prevalence
    right_yes, right_no = sensitivity * ill, specificity * well
    return (
        _share(right_yes, right_yes + (1 - specificity) * well),
        _share(right_no, right_no + (1 - sensitivity) * ill),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
