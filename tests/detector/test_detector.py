import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter

from src.ct.series import Series
from src.detector import Detector
from src.detector import detector as module
from src.detector.collect import Selection
from src.detector.folder import Description
from src.dicom import find_series
from src.ensemble.recipe import Recipe
from src.errors import UserError
from src.files.layout import Layout
from src.labels import LABELS
from tests.detector.conftest import Trained, export, probabilities_of

RECIPES = {
    "cnn": ("cnn", Recipe()),
    "last": ("last", Recipe()),
    "all": ("all", Recipe()),
    "smooth": ("all", Recipe(smooth_mm=5.0)),
    "weights, auto, temperature": ("all", Recipe("weights", None, "temperature")),
    "smooth, platt": ("all", Recipe("mean", 3.0, "platt")),
    "platt, consistent": ("all", Recipe("mean", 0.0, "platt", consistent=True)),
    "logits, isotonic": ("cnn", Recipe("logit-mean", 0.0, "isotonic")),
    "sequence, isotonic": ("sequence", Recipe("mean", 3.0, "isotonic")),
}


def _largest_difference(detector: Detector, series: list[Series], submission: Path) -> float:
    expected = probabilities_of(submission)
    worst = 0.0
    for each in series:
        found = detector(each)
        assert found.shape == (len(each), 6)
        worst = max(worst, float(np.abs(found - [expected[slice_id] for slice_id in each.ids]).max()))
    return worst


@pytest.mark.parametrize("name", RECIPES)
def test_a_detector_predicts_what_the_pipeline_submitted(
    trained: Trained, test_series: list[Series], tmp_path: Path, name: str
) -> None:
    members, recipe = RECIPES[name]
    manifest = trained.submit(members, recipe)
    folder = export(manifest, trained.layout, tmp_path / "detector")
    assert _largest_difference(Detector.load(folder), test_series, trained.layout.submission) < 1e-6


def test_a_detector_of_an_earlier_version_is_not_made_consistent(folder: Path) -> None:
    record = json.loads((folder / "detector.json").read_text())
    assert record["recipe"].pop("consistent") is False
    for name in ("format", "sha256", "files"):
        del record[name]
    assert TypeAdapter(Description).validate_python(record).fitted.consistent is False
    record["recipe"]["consistent"] = True
    assert TypeAdapter(Description).validate_python(record).fitted.consistent is True


def test_with_principal_components(trained_on_components: Trained, test_series: list[Series], tmp_path: Path) -> None:
    manifest = trained_on_components.submit("last", Recipe())
    folder = export(manifest, trained_on_components.layout, tmp_path / "detector")
    assert _largest_difference(Detector.load(folder), test_series, trained_on_components.layout.submission) < 1e-6


def _series(n: int, seed: int = 0) -> Series:
    random = np.random.default_rng(seed)
    pixels = [random.integers(-200, 301, (48, 48)).astype(np.int16) for _ in range(n)]
    return Series(pixels, np.cumsum(random.uniform(0.5, 9, n)), [f"slice {i}" for i in range(n)])


def _take(series: Series, order: np.ndarray) -> Series:
    return Series([series.pixels[i] for i in order], series.z[order], [series.ids[i] for i in order])


def test_the_order_of_the_slices_does_not_matter(detector: Detector) -> None:
    series = _series(21)
    expected = detector(series)
    order = np.random.default_rng(1).permutation(21)
    np.testing.assert_allclose(detector(_take(series, order)), expected[order], atol=1e-6)
    assert np.abs(expected - expected[order]).max() > 1e-3  # else the comparison would show nothing


def test_slices_of_equal_z_are_told_apart_by_their_ids(detector: Detector) -> None:
    series = replace(_series(6), z=np.array([0.0, 5, 5, 5, 10, 15]))
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(detector(_take(series, order)), detector(series)[order], atol=1e-6)


def test_one_slice_no_slice_and_slices_whose_z_is_unknown(detector: Detector) -> None:
    series = _series(5)
    assert detector(_take(series, np.array([], dtype=int))).shape == (0, 6)
    alone = np.concatenate([detector(_take(series, np.array([i]))) for i in range(5)])
    unknown = detector(replace(series, z=np.full(5, np.nan)))
    np.testing.assert_allclose(unknown, alone, atol=1e-6)
    some = series.z.copy()
    some[2] = np.nan
    found = detector(replace(series, z=some))
    np.testing.assert_allclose(found[2], alone[2], atol=1e-6)
    others = np.array([0, 1, 3, 4])
    np.testing.assert_allclose(found[others], detector(_take(series, others)), atol=1e-6)


def test_sizes_of_slices_may_differ(detector: Detector) -> None:
    series = _series(4)
    random = np.random.default_rng(2)
    mixed = [*series.pixels[:2], random.integers(-200, 301, (40, 64)).astype(np.int16), series.pixels[3]]
    found = detector(replace(series, pixels=mixed))
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()


def test_values_beyond_the_range_are_clipped(detector: Detector) -> None:
    series = _series(3)
    beyond = [
        np.where(each == 300, 3000, np.where(each == -200, -3024, each)).astype(np.int16) for each in series.pixels
    ]
    np.testing.assert_array_equal(detector(replace(series, pixels=beyond)), detector(series))


def test_a_long_series_needs_no_more_memory_than_a_few_images(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = trained.submit("last", Recipe())
    one = Detector.load(export(manifest, trained.layout, tmp_path / "one", Selection(networks=1)))
    (network,) = one.runtime.classifiers.values()
    original, sizes = network.forward_features, []

    def counted(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return original(images)

    monkeypatch.setattr(network, "forward_features", counted)
    assert one(_series(600)).shape == (600, 6)
    assert max(sizes) <= 8
    assert sum(sizes) == 2 * 600  # in two views


def test_every_slice_is_prepared_once_for_all_networks(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = module.network_input
    monkeypatch.setattr(module, "network_input", lambda hu, config: seen.append(config.name) or original(hu, config))
    detector(_series(9))
    assert sorted(seen) == ["adjacent"] * 9 + ["se_resnext50_32x4d"] * 9  # of four networks each


def test_study_level_is_the_maximum_over_slices(detector: Detector) -> None:
    probabilities = detector(_series(7))
    np.testing.assert_array_equal(detector.study_level(probabilities), probabilities.max(axis=0))


def test_operating_points_are_those_of_out_of_fold_predictions(
    trained: Trained, folder: Path, detector: Detector
) -> None:
    bag = pd.read_parquet(folder.parent / "out_of_fold.parquet").set_index("ID")
    truth = pd.read_parquet(trained.layout.table("train")).set_index("ID").loc[bag.index]
    studies = truth["StudyInstanceUID"]
    levels = {
        "slice": (truth[list(LABELS)], bag),
        "study": (truth.groupby(studies)[list(LABELS)].max(), bag.groupby(studies).max()),
    }
    checked = 0
    for level, (targets, probabilities) in levels.items():
        for label in LABELS:
            y, p = targets[label].to_numpy(), probabilities[label].to_numpy().astype(float)
            points = {name: each[label] for name, each in detector.operating_points[level].items()}
            if not 0 < y.sum() < len(y):
                assert points["youden"] is None
                continue
            candidates = np.append(np.unique(p), np.nextafter(p, np.inf))
            sensitivity = {t: (p[y == 1] >= t).mean() for t in candidates}
            specificity = {t: (p[y == 0] < t).mean() for t in candidates}
            best = max(sensitivity[t] + specificity[t] for t in candidates)
            assert sensitivity[points["youden"]] + specificity[points["youden"]] == pytest.approx(best)
            assert points["sensitivity_95"] == max(t for t in candidates if sensitivity[t] >= 0.95)
            assert points["specificity_95"] == pytest.approx(min(t for t in candidates if specificity[t] >= 0.95))
            checked += 1
    assert checked >= 6


def test_it_needs_nothing_but_its_folder(trained: Trained, test_series: list[Series], tmp_path: Path) -> None:
    manifest = trained.submit("last", Recipe())
    expected = shutil.copy(trained.layout.submission, tmp_path / "expected.csv")
    root = tmp_path / "root"
    shutil.copytree(trained.layout.root, root, symlinks=True)
    folder = export(root / "submission" / manifest.name, Layout(root), tmp_path / "elsewhere" / "detector")
    shutil.rmtree(root)
    assert _largest_difference(Detector.load(folder), test_series, Path(expected)) < 1e-6


def test_a_network_that_fails_is_an_error_and_no_answer(folder: Path) -> None:
    broken = Detector.load(folder)
    network = next(iter(broken.runtime.classifiers.values()))
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")
    with pytest.raises(UserError, match="some predictions are not finite"):
        broken(_series(3))


def test_a_study_has_slices_and_a_device_exists(folder: Path, detector: Detector) -> None:
    with pytest.raises(ValueError, match="no slices"):
        detector.study_level(np.empty((0, 6)))
    with pytest.raises(UserError, match="device gpu: expected cpu, cuda"):
        Detector.load(folder, device="gpu")


def test_a_real_head_ct(detector: Detector, real_head_ct: Path) -> None:
    (series,), _ = find_series([real_head_ct])
    found = detector(series)
    assert found.shape == (28, 6)
    assert np.isfinite(found).all()
    assert detector.study_level(found).shape == (6,)
