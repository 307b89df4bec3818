import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from src.evaluate.study import Cases, to_studies


def _cases(patients: list[int], probabilities: np.ndarray, targets: np.ndarray | None = None) -> Cases:
    if targets is None:
        targets = np.zeros(probabilities.shape, dtype=np.uint8)
    return Cases(targets, probabilities, np.array(patients), np.array(patients) % 2)


@given(st.integers(0, 1000))
def test_equals_pandas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    studies = rng.integers(8, size=40)
    patients = studies // 2
    slices = _cases(patients.tolist(), rng.random((40, 6)), (rng.random((40, 6)) < 0.2).astype(np.uint8))
    found = to_studies(slices, studies)
    expected = pd.DataFrame(np.hstack([slices.targets, slices.probabilities])).groupby(studies).max().to_numpy()
    np.testing.assert_array_equal(found.targets, expected[:, :6])
    np.testing.assert_array_equal(found.probabilities, expected[:, 6:])
    np.testing.assert_array_equal(found.patients, np.unique(studies) // 2)
    np.testing.assert_array_equal(found.folds, np.unique(studies) // 2 % 2)


def test_patients_without_a_study_id_keep_apart() -> None:
    # both have the empty StudyInstanceUID, which is one number
    found = to_studies(_cases([0, 1, 0], np.array([[0.1] * 6, [0.9] * 6, [0.2] * 6])), np.array([7, 7, 7]))
    np.testing.assert_array_equal(found.probabilities[:, 0], [0.2, 0.9])
    assert found.n_patients == 2
