import warnings

import numpy as np
import pytest

from src.ensemble.blend import to_logits
from src.ensemble.scores import by_classifier, correlation_table, score_table
from src.evaluate.score import log_loss_by_label, weighted_log_loss
from src.labels import LABELS

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((40, 6)) < 0.3).astype(np.uint8)
PROBABILITIES = RNG.random((3, 40, 6))


def test_a_row_for_each_candidate() -> None:
    table = score_table(TARGETS, {"a": PROBABILITIES[0], "b": PROBABILITIES[1]})
    assert table.index.tolist() == ["a", "b"]
    assert table.columns.tolist() == ["weighted", *LABELS]
    for name, probabilities in zip("ab", PROBABILITIES, strict=False):
        assert table.loc[name, "weighted"] == pytest.approx(weighted_log_loss(TARGETS, probabilities))
        np.testing.assert_allclose(table.loc[name, list(LABELS)], log_loss_by_label(TARGETS, probabilities))


def test_a_classifier_is_the_mean_of_its_epochs() -> None:
    found = by_classifier(["x epoch 2", "y epoch 3", "x epoch 3"], PROBABILITIES)
    assert list(found) == ["x", "y"]
    np.testing.assert_allclose(found["x"], (PROBABILITIES[0] + PROBABILITIES[2]) / 2)


def test_correlations_are_within_labels() -> None:
    # both members say that the first label is frequent; that makes them no more alike
    common = PROBABILITIES[:2].copy()
    table = correlation_table(["a", "b"], common)
    common[:, :, 0] = 0.9 + common[:, :, 0] / 20
    again = correlation_table(["a", "b"], common)
    assert abs(again.loc["a", "b"]) < 0.3
    logits = to_logits(PROBABILITIES)
    expected = np.mean([np.corrcoef(logits[0, :, j], logits[1, :, j])[0, 1] for j in range(6)])
    assert table.loc["a", "b"] == pytest.approx(expected)
    np.testing.assert_allclose(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1)


def test_a_constant_member_is_like_nobody_and_one_alone_like_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = correlation_table(["a", "b"], np.stack([PROBABILITIES[0], np.full((40, 6), 0.5)]))
        assert np.isnan(table.loc["a", "b"])
        assert correlation_table(["a"], PROBABILITIES[:1]).loc["a", "a"] == pytest.approx(1)
