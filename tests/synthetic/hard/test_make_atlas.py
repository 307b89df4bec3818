"""What the atlas is made with, on small shapes."""

import gzip
import struct

import numpy as np
import pytest

from src.synthetic.hard import atlas
from src.synthetic.hard.make_atlas import (
    close,
    encode_distance,
    encode_fraction,
    encode_soft,
    fill,
    largest,
    read_nifti,
    signed,
)


def ball(radius: float, size: int = 41) -> np.ndarray:
    axis = np.arange(size) - size // 2
    return np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2) < radius


def test_a_nifti_file_is_read_in_its_order(tmp_path):
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)  # z, y, x
    header = bytearray(352)
    struct.pack_into("<8h", header, 40, 3, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352.0)
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + volume.tobytes()))
    np.testing.assert_array_equal(read_nifti(path), volume)


def test_distances_are_to_the_border_between_voxels():
    distance = signed(ball(10.0))
    middle = 20
    assert distance[middle, middle, middle] == pytest.approx(9.5, abs=0.6)
    assert distance[middle, middle, middle + 9] == pytest.approx(0.5)
    assert distance[middle, middle, middle + 10] == pytest.approx(-0.5)
    assert distance[middle, middle, middle + 16] == pytest.approx(-6.5, abs=0.6)


def test_clefts_are_closed_and_what_is_enclosed_is_filled():
    cleft = ball(14.0)
    cleft[:, 19:22, 20:] = False
    assert close(cleft, 3.0)[20, 20, 28]
    assert not close(cleft, 3.0)[20, 20, 38]
    hollow = ball(12.0) & ~ball(6.0)
    assert fill(hollow)[20, 20, 20]
    two = ball(5.0)
    two[:3, :3, :3] = True
    assert largest(two)[20, 20, 20]
    assert not largest(two)[1, 1, 1]


def test_what_is_stored_is_read_again_to_within_a_step():
    mm = np.linspace(-4, 23, 200)
    np.testing.assert_allclose(atlas._MM[encode_distance(mm)], mm, atol=0.126)
    assert atlas._MM[encode_distance(np.array([-50.0, 90.0]))].tolist() == [-4.0, 23.0]
    fraction = np.linspace(0, 1, 200)
    np.testing.assert_allclose(atlas._FRACTION[encode_fraction(fraction)], fraction, atol=0.01)
    hu = np.concatenate([np.linspace(-1000, -140, 50), np.linspace(-125, 190, 50)])
    np.testing.assert_allclose(atlas._SOFT_HU[encode_soft(hu)][50:], hu[50:], atol=3.1)
    np.testing.assert_allclose(atlas._SOFT_HU[encode_soft(hu)][:50], hu[:50], atol=15.1)
    assert atlas._SOFT_HU[encode_soft(np.array([-1000.0]))][0] == -1000
