"""Operating points: thresholds on probabilities, and predictive values where bleeds are rarer or more frequent."""

import numpy as np
import pandas as pd

from src.evaluate.study import Cases
from src.labels import LABELS


def youden_threshold(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity - 1; NaN for targets that are all 0 or all 1.

    targets, probabilities: (N,). The threshold is one of the probabilities; a case is called positive if its
    probability is at least the threshold. Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
    """
    if not 0 < targets.sum() < len(targets):
        return np.nan
    from sklearn.metrics import roc_curve  # here: it takes a second to import

    false_positives, true_positives, thresholds = roc_curve(targets, probabilities)
    # the first threshold is infinite and calls no case positive
    return float(thresholds[1:][np.argmax((true_positives - false_positives)[1:])])


def sensitivity_threshold(targets: np.ndarray, probabilities: np.ndarray, sensitivity: float) -> float:
    """The largest threshold with at least this sensitivity; NaN without positives. See `youden_threshold`."""
    positives = np.sort(probabilities[targets == 1])[::-1]
    return float(positives[int(np.ceil(sensitivity * len(positives))) - 1]) if len(positives) else np.nan


def specificity_threshold(targets: np.ndarray, probabilities: np.ndarray, specificity: float) -> float:
    """The smallest threshold, just above a negative case, with at least this specificity; NaN without negatives.

    See `youden_threshold`. A threshold above all probabilities calls no case positive.
    """
    negatives = np.sort(probabilities[targets == 0])
    if not len(negatives):
        return np.nan
    return float(np.nextafter(negatives[int(np.ceil(specificity * len(negatives))) - 1], np.inf))


def thresholds_from_other_folds(cases: Cases) -> pd.DataFrame:
    """Each fold's thresholds, chosen on the cases of the other folds: a row per fold, columns LABELS.

    A threshold that is scored on the same cases that it was chosen on looks too good. A threshold is NaN if the label
    is never or always present in the other folds; if there is only one fold, all thresholds are NaN.
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
    """The fractions of positive and of negative answers that are right if a label has this prevalence.

    PPV and NPV by Bayes' theorem, each of the shape of the two arguments; NaN if no such answer is ever given. They
    hold if bleeds are as easy to see as here and only their number differs.
    """
    ill, well = prevalence, 1 - prevalence
    right_yes, right_no = sensitivity * ill, specificity * well
    return (
        _share(right_yes, right_yes + (1 - specificity) * well),
        _share(right_no, right_no + (1 - sensitivity) * ill),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
