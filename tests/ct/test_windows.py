import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.ct.hounsfield import HU_RANGE, clip_to_hu_range
from src.ct.windows import THREE_WINDOWS, apply_windows


def test_levels_and_widths_are_the_competitions() -> None:
    assert THREE_WINDOWS == ((40, 80), (80, 200), (40, 380))  # brain, blood/subdural, soft tissue


def test_golden_values() -> None:
    hu = np.array([[-1000, 0, 40], [80, 180, 3000]], dtype=np.float32)
    views = apply_windows(hu)
    assert views.shape == (2, 3, 3)
    assert views.dtype == np.float32
    expected_brain = [[0, 0, 0.5], [1, 1, 1]]
    expected_blood = [[0, 0.1, 0.3], [0.5, 1, 1]]
    expected_soft = [[0, 150 / 380, 0.5], [230 / 380, 330 / 380, 1]]
    np.testing.assert_allclose(views[..., 0], expected_brain, atol=1e-6)
    np.testing.assert_allclose(views[..., 1], expected_blood, atol=1e-6)
    np.testing.assert_allclose(views[..., 2], expected_soft, atol=1e-6)


@given(st.integers(-4000, 4000))
def test_the_stored_range_loses_nothing_that_the_windows_see(hu: int) -> None:
    whole = np.array([hu], dtype=np.float32)
    np.testing.assert_array_equal(apply_windows(clip_to_hu_range(whole)), apply_windows(whole))


def test_the_windows_lie_within_the_stored_range() -> None:
    low = min(level - width / 2 for level, width in THREE_WINDOWS)
    high = max(level + width / 2 for level, width in THREE_WINDOWS)
    assert (low, high) == (-150, 230)
    assert HU_RANGE[0] < low
    assert high < HU_RANGE[1]
