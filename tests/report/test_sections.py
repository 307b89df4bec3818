"""What sections say of tables that are worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from src.evaluate.out_of_fold import Truth
from src.evaluate.score import weighted_log_loss
from src.evaluate.summary import to_levels
from src.files.layout import Layout
from src.labels import LABELS
from src.report.card import _GUIDELINES, _HERE, guidelines
from src.report.cases import worst_cases
from src.report.errors import _by_patient, _together
from src.report.headline import loss_table
from src.report.series import series_table
from src.report.sources import Scored, Sources
from src.report.subgroups import by_distance, grouped, subgroups


def _scored(targets: np.ndarray, probabilities: np.ndarray, patients: list[int]) -> Scored:
    of = np.array(patients)
    truth = Truth(pd.Index([f"ID_{i:09x}" for i in range(len(of))]), targets, of, of, of % 2)
    return Scored(truth, probabilities, to_levels(truth, probabilities))


@pytest.fixture
def scored() -> Scored:
    """Four patients of two slices: the first is wrong by far, the others are right."""
    targets = np.zeros((8, 6), dtype=np.uint8)
    targets[:4, [0, 5]] = 1
    probabilities = np.where(targets == 1, 0.9, 0.1).astype(float)
    probabilities[:2] = 1 - probabilities[:2]
    return _scored(targets, probabilities, [0, 0, 1, 1, 2, 2, 3, 3])


def _headers(count: int = 8) -> pd.DataFrame:
    """Series of two slices; the first is tilted, the second has slices 1 mm apart."""
    number = np.arange(count)
    z = (number % 2) * np.where(number // 2 == 1, 1.0, 5.0)
    normal = np.where(number // 2 == 0, np.tan(np.radians(20)), 0.0)  # the table moves along z, the slices lean
    tilt = np.arctan(normal)
    return pd.DataFrame(
        {
            "ID": [f"ID_{i:09x}" for i in number], "PatientID": [f"p{i // 2}" for i in number],
            "SeriesInstanceUID": [f"s{i // 2}" for i in number], "z": z, "reason": "", "rows": 512,
            "columns": np.where(number < 2, 512, 256), "pixel_representation": number // 4,
            "position_x": 0.0, "position_y": 0.0, "position_z": z,
            "row_cosine_x": 1.0, "row_cosine_y": 0.0, "row_cosine_z": 0.0,
            "column_cosine_x": 0.0, "column_cosine_y": np.cos(tilt), "column_cosine_z": np.sin(tilt),
        }
    )  # fmt: skip


class _Given(Sources):
    """Sources of one table of headers."""

    def __init__(self, headers: pd.DataFrame) -> None:
        super().__init__(Layout.__new__(Layout))
        self.__dict__["_headers"] = {"train": headers}


def test_series_have_their_gaps_and_tilts() -> None:
    frame = series_table(_headers()).set_index("SeriesInstanceUID")
    assert frame["slices"].tolist() == [2, 2, 2, 2]
    assert frame["gap_mm"].tolist() == frame["length_mm"].tolist() == [5.0, 1.0, 5.0, 5.0]
    assert frame["tilt_degrees"].tolist() == pytest.approx([20, 0, 0, 0], abs=1e-6)
    alone = series_table(_headers().iloc[[0, 2, 3]]).set_index("SeriesInstanceUID")
    assert alone.loc["s0", ["gap_mm", "tilt_degrees"]].isna().all()


def test_one_patient_has_most_of_the_loss(scored: Scored) -> None:
    table = _by_patient(scored)[0].frame.set_index("patients")
    wrong, right = -np.log(0.1), -np.log(0.9)
    assert table.loc[1, "fraction_of_loss"] == pytest.approx(wrong / (wrong + 3 * right))
    assert table.loc[1, "fraction_of_patients"] == 0.25
    assert table.loc[4, "fraction_of_loss"] == pytest.approx(1)


def test_groups_have_their_own_loss(scored: Scored) -> None:
    frame = grouped(scored, np.array([0, 0, 1, 1, 1, 1, -1, -1]), ["wrong", "right", "nobody"])
    for i, rows in enumerate((slice(0, 2), slice(2, 6))):
        expected = weighted_log_loss(scored.truth.targets[rows], scored.probabilities[rows])
        assert frame["log_loss"][i] == pytest.approx(expected)
    assert frame["slices"].tolist() == [2, 4, 0]
    assert frame["patients"].tolist() == [1, 2, 0]
    assert np.isnan(frame["log_loss"][2])
    assert frame["auc_any"][1] == 1


def test_headers_make_groups(scored: Scored) -> None:
    sources = _Given(_headers())
    by = subgroups(sources, scored).frame.set_index(["by", "group"])["slices"]
    assert by["gantry tilt"].to_dict() == {"to 1 degree": 6, "above 1 degree": 2}
    assert by["matrix"].to_dict() == {"512 x 512": 2, "other": 6}
    assert by["stored values"].to_dict() == {"signed": 4, "unsigned": 4}
    distance = by_distance(sources, scored).frame
    assert dict(zip(distance["group"], distance["slices"], strict=True)) == {"to 1.5 mm": 2, "3.5 to 5.5 mm": 6}


def test_the_worst_are_one_of_a_series_and_sorted(scored: Scored) -> None:
    found = worst_cases(scored, _headers(), {**dict.fromkeys(LABELS), "any": 0.9, "subdural": 0.95})
    of_any = found[found["label"] == "any"]
    negatives = of_any[of_any["kind"] == "false negative"]
    assert negatives["ID"].tolist() == ["ID_000000000"]  # 0.1; the other positive slices are at the threshold
    assert not of_any["kind"].eq("false positive").any()
    subdural = found[found["label"] == "subdural"]
    assert subdural["ID"].tolist() == ["ID_000000000", "ID_000000002"]
    assert subdural["probability"].tolist() == pytest.approx([0.1, 0.9])
    assert negatives["labels"].iloc[0] == "any hemorrhage, subdural"
    assert set(found["label"]) == {"any", "subdural"}  # without a threshold nothing is an error


def test_labels_that_come_together_are_counted(scored: Scored) -> None:
    frame = _together(scored).frame.set_index("label")
    assert frame.loc["any", "subdural"] == 1
    assert frame.loc["any", "slices_subdural"] == 4
    assert frame.loc["any", "epidural"] == 0
    assert np.isnan(frame.loc["epidural", "any"])


def test_losses_are_the_metric_with_the_bag_first_and_the_prior_last(scored: Scored) -> None:
    candidates = {"constant prior": np.full((8, 6), 0.5), "net": scored.probabilities, "bag": scored.probabilities}
    frame = loss_table(scored.truth.targets, scored.truth.patients, candidates).frame
    assert frame["what"].tolist() == ["bag", "net", "constant prior"]
    assert frame["weighted"][0] == pytest.approx(weighted_log_loss(scored.truth.targets, scored.probabilities))
    assert frame["weighted"][2] == pytest.approx(np.log(2))
    assert frame["patients"].tolist() == [4, 4, 4]


def test_the_items_of_guidelines_are_those_of_the_document() -> None:
    claim, tripod = guidelines(_GUIDELINES)
    assert claim.frame["number"].tolist() == [str(i) for i in range(1, 45)]
    assert claim.frame["item"][27] == "metrics of performance"
    for table, name in ((claim, "CLAIM"), (tripod, "TRIPOD+AI")):
        assert {*_HERE[name]} <= {*table.frame["number"]}
    sections = {"headline", "data", "training", "discrimination", "calibration", "errors", "card", "all intervals"}
    for each in (*_HERE["CLAIM"].values(), *_HERE["TRIPOD+AI"].values()):
        assert {*each.split(", ")} <= sections
