import numpy as np

from src.ct.brain import brain_fraction


def test_share_of_tissue_between_water_and_dense_blood() -> None:
    assert brain_fraction(np.array([[-1000, 30], [35, 1200]], dtype=np.float32)) == 0.5
    assert brain_fraction(np.array([[0, 80]], dtype=np.float32)) == 0.5  # 0 is out, 80 is in


def test_a_constant_slice_shows_nothing() -> None:
    assert brain_fraction(np.full((4, 4), 40, dtype=np.float32)) == 0
