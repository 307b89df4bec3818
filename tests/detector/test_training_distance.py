import os
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import mahalanobis

from src.ct.series import Series
from src.detector import Detector
from src.detector.training_distance import TrainingDistribution, fit_distribution, limits_of
from src.ensemble.recipe import Recipe
from src.files.embeddings import Embeddings
from src.files.image_store import ImageStore
from src.sequence.components import PrincipalComponents
from src.sequence.series import read_slices_by_series
from tests.detector.conftest import Trained, export


def _embeddings(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(dimensions, dimensions)) * np.geomspace(5, 0.1, dimensions)
    return (random.normal(size=(n, dimensions)) @ mixed.T + 3).astype(np.float32)


def test_the_distance_is_that_of_mahalanobis_with_one_variance_for_the_lesser_directions() -> None:
    embeddings = _embeddings(200, 12)
    fitted = fit_distribution(embeddings)
    assert fitted is not None
    assert len(fitted.axes) == 6
    covariance = np.cov(embeddings.T.astype(np.float64), bias=True)
    variances, vectors = np.linalg.eigh(covariance)
    variances[:6] = variances[:6].mean()
    inverse = np.linalg.inv(vectors @ np.diag(variances) @ vectors.T)
    mean = embeddings.mean(axis=0, dtype=np.float64)
    expected = [mahalanobis(each, mean, inverse) / np.sqrt(12) for each in embeddings]
    np.testing.assert_allclose(fitted.distance(embeddings), expected, rtol=1e-6)
    assert np.mean(np.square(expected)) == pytest.approx(1)


def test_it_is_the_same_from_its_tensors_and_behind_a_projection() -> None:
    raw = _embeddings(300, 20)
    random = np.random.default_rng(1)
    projection = PrincipalComponents(random.normal(size=20), random.normal(size=(8, 20)))
    behind, plain = fit_distribution(projection(raw), projection), fit_distribution(projection(raw))
    assert behind is not None
    assert plain is not None
    np.testing.assert_allclose(behind.distance(raw), plain.distance(projection(raw)))
    for each, values in ((behind, raw), (plain, projection(raw))):
        again = TrainingDistribution.from_tensors(each.tensors())
        np.testing.assert_allclose(again.distance(values), each.distance(values), rtol=1e-4)


def test_what_lies_outside_the_subspace_counts() -> None:
    embeddings = _embeddings(500, 30)
    embeddings[:, 15:] *= 0.01
    fitted = fit_distribution(embeddings)
    assert fitted is not None
    outside = embeddings.mean(axis=0, keepdims=True).copy()
    outside[0, 20:] += 1
    assert fitted.distance(outside)[0] > 3 * fitted.distance(embeddings).max()


@pytest.mark.parametrize("embeddings", [np.zeros((3, 10), np.float32), np.ones((50, 10), np.float32)])
def test_too_few_or_equal_slices_have_no_distribution(embeddings: np.ndarray) -> None:
    assert fit_distribution(embeddings) is None


def test_one_of_a_hundred_is_beyond_the_limits() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, 700)
    starts = np.cumsum([0, *lengths])
    distances = random.gamma(4, size=starts[-1])
    slice_limit, series_limit = limits_of(distances, starts)
    assert np.mean(distances > slice_limit) == pytest.approx(0.01, abs=0.0005)
    beyond = [np.mean(distances[a:b] > slice_limit) for a, b in pairwise(starts)]
    assert 0 < np.mean(np.array(beyond) > series_limit) <= 0.01


def _training_series(trained: Trained) -> Series:
    """A series that fold 0 holds."""
    slices = read_slices_by_series(trained.layout, "train")
    assert slices.folds is not None
    which = next(
        i for i, start in enumerate(slices.starts) if slices.folds[start] == 0 and not np.isnan(slices.z[start])
    )
    rows = np.arange(slices.starts[which], slices.starts[which + 1])
    store = ImageStore(trained.layout.store("train"))
    ids = [slices.ids[row] for row in rows]
    return Series([store.hounsfield(each) for each in ids], slices.z[rows], ids)


@pytest.mark.parametrize("reduced", [False, True])
def test_a_detector_measures_slices_as_they_were_embedded(
    request: pytest.FixtureRequest, tmp_path: Path, reduced: bool
) -> None:
    trained: Trained = request.getfixturevalue("trained_on_components" if reduced else "trained")
    manifest = trained.submit("last", Recipe())
    detector = Detector.load(export(manifest, trained.layout, tmp_path / "detector"))
    limits, distribution = detector.description.distance, detector._distribution
    assert limits is not None
    assert distribution is not None
    series = _training_series(trained)
    found = detector.predict(series).distances
    assert found is not None

    embeddings = Embeddings(trained.layout.fold(limits.network.name, 0).embeddings("train", limits.network.epoch))
    slices = read_slices_by_series(trained.layout, "train")
    of = pd.Index(slices.ids).get_indexer(series.ids)
    saved = np.concatenate([embeddings.read(i, i + 1)[1] for i in of])
    plain = TrainingDistribution(distribution.mean, distribution.axes, distribution.noise)
    np.testing.assert_allclose(found, plain.distance(saved), rtol=0.02)  # float16 in the file
    assert np.mean(found > limits.slices) <= limits.series


def test_its_bytes_do_not_depend_on_threads(trained: Trained, repository: Path, python: str, tmp_path: Path) -> None:
    trained.submit("last", Recipe())
    made = []
    for threads in ("1", "2"):
        folder = tmp_path / threads
        environment = {**os.environ, "PYTHON": python, "ICH_ROOT": str(trained.layout.root), "OMP_NUM_THREADS": threads}
        command = ["sh", str(repository / "bin/export.sh"), "--folds", "0", "--output", str(folder)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.append((folder / "weights" / "training_distribution.safetensors").read_bytes())
    assert made[0] == made[1]


def test_without_embeddings_a_detector_knows_no_distance(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = trained.submit("cnn", Recipe())
    caplog.set_level("INFO")
    folder = export(manifest, trained.layout, tmp_path / "detector")
    assert "no distance from the training set: without a second stage" in caplog.text
    detector = Detector.load(folder)
    assert detector.description.distance is None
    assert detector.predict(_training_series(trained)).distances is None
    assert "Not known: no embeddings" in (folder / "MODEL_CARD.md").read_text()
