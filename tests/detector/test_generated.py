from pathlib import Path

import numpy as np

from benchmarks import generated
from benchmarks.heads import generate
from src.ct.hounsfield import HU_RANGE
from src.detector import Detector
from src.dicom import find_series
from src.labels import LABELS
from src.synthetic.make_competition import make_competition


def test_a_generated_head_is_what_its_files_hold(tmp_path: Path) -> None:
    make_competition(tmp_path / "input", patients=8, slices=4, size=32, difficulty="hard", seed=5)
    from_files, _ = find_series([tmp_path / "input"])
    in_files = {pixels.tobytes() for series in from_files for pixels in series.pixels}
    heads = generate(8, 4, 32, 5)
    in_memory = {np.clip(pixels, *HU_RANGE).tobytes() for head in heads for pixels in head.series.pixels}
    assert len(in_files - in_memory) <= 1  # the constant slice
    assert len(in_memory - in_files) <= 4  # which it replaces; a copy of another slice, and truncated files


def test_cases_are_the_detectors_by_slice_and_by_study(detector: Detector) -> None:
    levels = generated.predict(detector, 8, 4, 32, "easy", 1)
    heads = list(generate(8, 4, 32, 1, "easy"))
    np.testing.assert_array_equal(levels["slice"].targets, np.concatenate([each.labels for each in heads]))
    by_patient = sorted(heads, key=lambda head: head.patient)
    np.testing.assert_array_equal(levels["study"].targets, [each.labels.max(axis=0) for each in by_patient])
    of_first = detector(heads[0].series)
    np.testing.assert_array_equal(levels["slice"].probabilities[: len(of_first)], of_first)
    rows = generated.rows_of("easy", levels, detector)
    assert [row[:3] for row in rows] == [("easy", level, len(levels[level].targets)) for level in ("slice", "study")]
    assert all(len(row) == 3 + len(LABELS) + 3 for row in rows)
