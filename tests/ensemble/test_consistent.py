import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize

from src.ensemble.consistent import make_consistent
from src.labels import WEIGHTS

ROWS = hnp.arrays(np.float64, (7, 6), elements=st.floats(1e-5, 1 - 1e-5))
LIMITED = hnp.arrays(np.float64, (7, 6), elements=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]))  # with ties
# all labels of a slice that fit together: nothing, or a hemorrhage of any subtypes, or of none that is named
LABELLED = np.array([[0] * 6, *([1, *(code >> bit & 1 for bit in range(5))] for code in range(32))])


def test_golden_values() -> None:
    rows = np.array(
        [
            [0.6, 0.1, 0.6, 0.0, 0.2, 0.3],  # consistent
            [0.3, 0.6, 0.1, 0.0, 0.2, 0.3],  # (2 x 0.3 + 0.6) / 3 = 0.4, above 0.3
            [0.2, 0.8, 0.5, 0.45, 0.1, 0.0],  # (0.4 + 0.8) / 3 = 0.4; with 0.5: 0.425; with 0.45: 0.43
            [0.0, 1.0, 1.0, 1.0, 1.0, 1.0],  # 5 / 7
        ]
    )
    expected = [
        [0.6, 0.1, 0.6, 0.0, 0.2, 0.3],
        [0.4, 0.4, 0.1, 0.0, 0.2, 0.3],
        [0.43, 0.43, 0.43, 0.43, 0.1, 0.0],
        [5 / 7] * 6,
    ]
    np.testing.assert_allclose(make_consistent(rows), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_nearest_that_an_optimiser_finds(seed: int) -> None:
    row = np.random.default_rng(seed).random(6)
    order = {"type": "ineq", "fun": lambda x: x[0] - x[1:], "jac": lambda x: np.column_stack([np.ones(5), -np.eye(5)])}

    def squared(x: np.ndarray) -> float:
        return float(np.sum(np.array(WEIGHTS) * (x - row) ** 2))

    def divergence(x: np.ndarray) -> float:  # Kullback-Leibler of the predicted from the consistent probabilities
        terms = row * np.log(row / x) + (1 - row) * np.log((1 - row) / (1 - x))
        return float(np.sum(np.array(WEIGHTS) * terms))

    for distance in (squared, divergence):
        found = minimize(distance, np.full(6, 0.5), method="SLSQP", constraints=order, bounds=[(1e-6, 1 - 1e-6)] * 6,
                         options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
        np.testing.assert_allclose(make_consistent(row[None])[0], found.x, atol=1e-4)


@given(ROWS | LIMITED)
def test_its_properties(rows: np.ndarray) -> None:
    before = rows.copy()
    found = make_consistent(rows)
    np.testing.assert_array_equal(rows, before)  # its argument stays
    assert (found[:, :1] >= found[:, 1:]).all()
    assert ((found >= rows.min()) & (found <= rows.max())).all()  # so within [0, 1]
    assert (found[:, 0] >= rows[:, 0]).all()
    assert (found[:, 1:] <= rows[:, 1:]).all()
    np.testing.assert_array_equal(make_consistent(found), found)
    fits = rows[:, 0] >= rows[:, 1:].max(axis=1)
    np.testing.assert_array_equal(found[fits], rows[fits])
    # each slice by itself, and its subtypes in any order
    np.testing.assert_array_equal(np.concatenate([make_consistent(row[None]) for row in rows]), found)
    turned = [0, 3, 1, 5, 2, 4]
    np.testing.assert_array_equal(make_consistent(rows[:, turned]), found[:, turned])
    # the weighted sum of what was pooled is kept
    np.testing.assert_allclose(found @ WEIGHTS, rows @ WEIGHTS, rtol=1e-12)


@settings(deadline=None)
@given(ROWS)
def test_no_slice_loses_by_it(rows: np.ndarray) -> None:
    found, weights = make_consistent(rows), np.array(WEIGHTS)
    for labels in LABELLED:
        for loss in (lambda p, y: -np.log(np.where(y == 1, p, 1 - p)), lambda p, y: (p - y) ** 2):
            before, after = loss(rows, labels) @ weights, loss(found, labels) @ weights
            assert (after <= before + 1e-12 * np.maximum(1, before)).all()


@given(ROWS, st.integers(0, 1000))
def test_nor_where_the_truth_is_a_consistent_probability(rows: np.ndarray, seed: int) -> None:
    truth = np.random.default_rng(seed).dirichlet(np.full(len(LABELLED), 0.1), size=len(rows)) @ LABELLED
    found, weights = make_consistent(rows), np.array(WEIGHTS)
    before, after = ((-truth * np.log(p) - (1 - truth) * np.log(1 - p)) @ weights for p in (rows, found))
    assert (after <= before + 1e-9).all()
    assert (((found - truth) ** 2) @ weights <= ((rows - truth) ** 2) @ weights + 1e-12).all()


def test_no_slices_and_float32() -> None:
    assert make_consistent(np.empty((0, 6))).shape == (0, 6)
    rows = np.random.default_rng(0).random((1000, 6)).astype(np.float32)
    found = make_consistent(rows)
    assert (found[:, :1] >= found[:, 1:]).all()
    assert ((found >= 0) & (found <= 1)).all()
    consistent = np.sort(rows, axis=1)[:, ::-1]
    assert make_consistent(consistent) is consistent
