import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.ct.hounsfield import HU_RANGE, clip_to_hu_range, to_clipped_hounsfield, to_hounsfield, to_unit


def test_slope_and_intercept() -> None:
    stored = np.array([[0, 1000], [1024, 1064]], dtype=np.int16)
    hu = to_hounsfield(stored, slope=1, intercept=-1024, bits_stored=16, pixel_representation=1)
    assert hu.dtype == np.float32
    assert hu.tolist() == [[-1024, -24], [0, 40]]
    assert to_hounsfield(stored, slope=0.5, intercept=1, bits_stored=16, pixel_representation=1)[1, 1] == 533


@pytest.mark.parametrize("intercept", [0, -1, 1])
def test_wrong_intercept_is_repaired(intercept: int) -> None:
    # 12 bits that wrapped: air of -1000 HU stands as 3096, water as 0, bone of 1000 as 1000
    stored = np.array([3096, 4095, 0, 40, 1000, 3095], dtype=np.uint16)
    hu = to_hounsfield(stored, slope=1, intercept=intercept, bits_stored=12, pixel_representation=0)
    assert hu.tolist() == [-1000, -1, 0, 40, 1000, 3095]


@pytest.mark.parametrize(
    ("bits_stored", "pixel_representation", "intercept"), [(12, 0, -1024), (16, 0, 0), (12, 1, 0), (12, 0, -100)]
)
def test_right_intercepts_are_left(bits_stored: int, pixel_representation: int, intercept: int) -> None:
    stored = np.array([0, 3500], dtype=np.int16)
    hu = to_hounsfield(
        stored, slope=1, intercept=intercept, bits_stored=bits_stored, pixel_representation=pixel_representation
    )
    assert hu.tolist() == [intercept, 3500 + intercept]


@given(hnp.arrays(np.int32, (3, 4), elements=st.integers(-1000, 3095)))
def test_repair_undoes_the_wrap(hu: np.ndarray) -> None:
    wrapped = np.mod(hu, 4096).astype(np.uint16)
    repaired = to_hounsfield(wrapped, slope=1, intercept=0, bits_stored=12, pixel_representation=0)
    assert np.array_equal(repaired, hu)


def test_stored_range_rounds_and_clips() -> None:
    hu = np.array([-3024, -200.4, 39.5, 40.49, 40.51, 299.7, 31573], dtype=np.float32)
    stored = clip_to_hu_range(hu)
    assert stored.dtype == np.int16
    assert stored.tolist() == [-200, -200, 40, 40, 41, 300, 300]


def test_unit_spans_the_stored_range() -> None:
    unit = to_unit(np.array([*HU_RANGE, 50], dtype=np.int16))
    assert unit.dtype == np.float32
    assert unit.tolist() == [0, 1, 0.5]


EVERY_16_BIT_VALUE = np.arange(1 << 16, dtype=np.uint16)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize("intercept", [0, -1024, -1000, 24, 999, -32768, 32767, 65536, -65536, 1_000_000, -1_000_000])
@pytest.mark.parametrize(("bits_stored", "pixel_representation"), [(16, 0), (16, 1), (12, 0), (12, 1)])
def test_integers_say_the_same_as_floats(
    kind: type, intercept: int, bits_stored: int, pixel_representation: int
) -> None:
    # only what 12 bits can hold is ever asked of the repair
    stored = (EVERY_16_BIT_VALUE[:4096] if bits_stored == 12 else EVERY_16_BIT_VALUE).view(kind)
    how = {"intercept": intercept, "bits_stored": bits_stored, "pixel_representation": pixel_representation}
    found = to_clipped_hounsfield(stored, slope=1, **how)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, clip_to_hu_range(to_hounsfield(stored, slope=1, **how)))


@given(
    hnp.arrays(
        st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32]), hnp.array_shapes(min_dims=2, max_dims=2)
    ),
    st.sampled_from([1, 0.5, -1, 2.75]),
    st.one_of(st.integers(-5000, 5000), st.floats(-5000, 5000, width=32)),
)
def test_any_rescale_is_stored_rounded_and_clipped(stored: np.ndarray, slope: float, intercept: float) -> None:
    how = {"slope": slope, "intercept": intercept, "bits_stored": 16, "pixel_representation": 1}
    found = to_clipped_hounsfield(stored, **how)
    np.testing.assert_array_equal(found, clip_to_hu_range(to_hounsfield(stored, **how)))
    assert found.shape == stored.shape
