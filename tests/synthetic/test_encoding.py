import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.synthetic.encoding import ENCODINGS, SIGNED, SIGNED_NO_INTERCEPT, UNSIGNED_12, WRAPPED

HU = arrays(np.int32, (3, 4), elements=st.integers(-1000, 3071)).map(lambda hu: hu.astype(np.float32))
INSIDE = np.zeros((3, 4), dtype=bool)


@given(HU)
@settings(max_examples=50)
def test_wrapped_values_are_undone_by_the_known_repair(hu):
    stored = WRAPPED.to_stored(hu, INSIDE).astype(int)
    assert stored.min() >= 0
    assert stored.max() <= 4095
    repaired = stored + 1000
    repaired[repaired >= 4096] -= 4096
    np.testing.assert_array_equal(repaired - 1000, hu)


@pytest.mark.parametrize("encoding", [SIGNED, SIGNED_NO_INTERCEPT, UNSIGNED_12])
@given(hu=HU)
@settings(max_examples=50)
def test_a_right_header_gives_hu_back(encoding, hu):
    stored = encoding.to_stored(hu, INSIDE)
    assert stored.dtype == (np.int16 if encoding.signed else np.uint16)
    np.testing.assert_array_equal(stored.astype(int) + encoding.intercept, hu)


def test_golden_values_of_the_wrapped_encoding():
    hu = np.array([[-1000, -1, 0, 40, 3095]], dtype=np.float32)
    np.testing.assert_array_equal(WRAPPED.to_stored(hu, np.zeros((1, 5), dtype=bool)), [[3096, 4095, 0, 40, 3095]])


@pytest.mark.parametrize(("encoding", "padding"), [(SIGNED, -3024), (SIGNED_NO_INTERCEPT, -2000)])
def test_padding_lies_outside_the_circle_only(encoding, padding):
    outside = INSIDE.copy()
    outside[0, 0] = True
    hu = encoding.to_stored(np.zeros((3, 4), dtype=np.float32), outside).astype(int) + encoding.intercept
    assert hu[0, 0] == padding
    assert (hu[~outside] == 0).all()


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_values_beyond_the_bits_are_clipped_not_wrapped(encoding):
    low, high = encoding.to_stored(np.array([[-50_000, 50_000]], dtype=np.float32), np.zeros((1, 2), dtype=bool))[0]
    if encoding.wraps:
        assert (low, high) == (3096, 3095)
    else:
        assert low < high
