import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ct.series import Series, adjacent_slices, order_by_series

NAN = float("nan")
LOCATIONS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-5.0, 0.0, 1.5, 7.0, NAN])), min_size=1)


def _series(ids: list[str], z: list[float]) -> Series:
    return Series([np.zeros((4, 4), dtype=np.int16)] * len(ids), np.array(z), ids)


def test_adjacent_slices_are_those_of_the_series_around_a_slice() -> None:
    # in no order: slices 1, 6, 5, 3 are series 0 along z, with gaps of two sizes; 0, 4 series 1; 2 and 7 have no z
    series = np.array([1, 0, 0, 0, 1, 0, 0, 1])
    z = np.array([0.0, 10.0, NAN, 35.0, 5.0, 25.0, 15.0, NAN])
    one = adjacent_slices(series, z, neighbours=1).tolist()
    assert [one[i] for i in (1, 6, 5, 3)] == [[1, 1, 6], [1, 6, 5], [6, 5, 3], [5, 3, 3]]
    assert [one[i] for i in (0, 4)] == [[0, 0, 4], [0, 4, 4]]
    assert [one[i] for i in (2, 7)] == [[2, 2, 2], [7, 7, 7]]
    assert adjacent_slices(series, z, neighbours=2)[6].tolist() == [1, 1, 6, 5, 3]
    assert adjacent_slices(series, z, neighbours=0).tolist() == [[i] for i in range(8)]


@given(LOCATIONS, st.integers(0, 3))
def test_adjacent_slices_are_of_one_series_in_the_order_of_z(
    locations: list[tuple[int, float]], neighbours: int
) -> None:
    series, z = (np.array(each) for each in zip(*locations, strict=True))
    adjacent = adjacent_slices(series, z, neighbours)
    assert adjacent.shape == (len(series), 2 * neighbours + 1)
    assert adjacent[:, neighbours].tolist() == list(range(len(series)))
    for i, around in enumerate(adjacent):
        if np.isnan(z[i]):
            assert set(around) == {i}
        else:
            assert set(series[around]) == {series[i]}
            assert (np.diff(z[around]) >= 0).all()


def test_series_follow_each_other_each_along_z() -> None:
    series = np.array([1, 0, 1, 0, 0])
    z = np.array([2.0, 5.0, 1.0, NAN, 3.0])
    order, starts = order_by_series(series, z)
    assert order.tolist() == [4, 1, 3, 2, 0]
    assert starts.tolist() == [0, 2, 3, 5]  # the slice without z is a series by itself


def test_slices_of_equal_z_keep_their_order() -> None:
    order, starts = order_by_series(np.zeros(4, dtype=int), np.array([1.0, 0.0, 1.0, 0.0]))
    assert order.tolist() == [1, 3, 0, 2]
    assert starts.tolist() == [0, 4]


def test_no_slices_are_no_series() -> None:
    order, starts = order_by_series(np.zeros(0, dtype=int), np.zeros(0))
    assert (order.tolist(), starts.tolist()) == ([], [0])
    assert adjacent_slices(np.zeros(0, dtype=int), np.zeros(0), 1).shape == (0, 3)


def test_a_series_is_ordered_by_z_then_id_with_unknown_z_last() -> None:
    series = _series(["e", "c", "b", "d", "a"], [NAN, 2.0, 2.0, -7.5, NAN])
    assert len(series) == 5
    assert [series.ids[i] for i in series.order()] == ["d", "b", "c", "a", "e"]


PIXELS = np.zeros((4, 4), dtype=np.int16)


@pytest.mark.parametrize(
    ("pixels", "z", "ids", "expected"),
    [
        ([PIXELS], [0.0, 1.0], ["a"], "1 slices, 2 positions and 1 ids"),
        ([PIXELS] * 2, [0.0, 1.0], ["a"], "2 slices, 2 positions and 1 ids"),
        ([PIXELS] * 2, [0.0, 1.0], ["a", "a"], "ids that come more than once"),
        ([PIXELS, PIXELS.astype(float)], [0.0, 1.0], ["a", "b"], "slice b: float64 of shape .*; expected 2D int16 HU"),
        ([PIXELS[None]], [0.0], ["a"], r"slice a: int16 of shape \(1, 4, 4\); expected 2D int16 HU"),
        ([PIXELS[:0]], [0.0], ["a"], r"slice a: int16 of shape \(0, 4\); expected 2D int16 HU"),
        ([PIXELS], [float("inf")], ["a"], "an infinite z; expected millimetres, or NaN"),
        ([PIXELS], [-float("inf")], ["a"], "an infinite z; expected millimetres, or NaN"),
    ],
)
def test_what_is_no_series_is_refused(pixels: list[np.ndarray], z: list[float], ids: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Series(pixels, np.array(z), ids)


def test_sizes_may_differ_and_z_be_unknown() -> None:
    assert len(Series([PIXELS, PIXELS[:2]], np.array([NAN, NAN]), ["a", "b"])) == 2
