from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.files.study_labels import canonical_id, read_study_labels
from src.labels import LABELS

NAN = np.nan
FINDINGS = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH")


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def _by_label(values: np.ndarray) -> dict[str, float]:
    return dict(zip(LABELS, values.tolist(), strict=True))


def test_the_majority_of_readers_counts(tmp_path: Path) -> None:
    header = "name,Category,R1:BleedLocation-Left," + ",".join(f"R{r}:{f}" for r in (1, 2, 3) for f in FINDINGS)
    path = _write(
        tmp_path / "reads.csv",
        header,
        "CQ500-CT-0,B1,1,1,1,0,0,0,0,1,1,0,0,0,0,1,0,0,1,0,0",  # readers say IPH, IPH, SDH
        "CQ500-CT-12,B2,,1,,0,0,0,1,0,0,0,0,0,1,,,0,1,0,",  # the third read two of three findings
    )
    labels = read_study_labels(path)
    assert (labels.kind, list(labels.ids)) == ("PatientID", ["CQ500-CT-0", "CQ500-CT-12"])
    first, second = map(_by_label, labels.values)
    assert first == {**dict.fromkeys(LABELS, 0.0), "any": 1.0, "intraparenchymal": 1.0}
    # any is 1 and 0: a tie; IPH is read by one alone; SAH 1, 1 and nothing
    assert np.isnan(second["any"])
    assert second["intraparenchymal"] == 0
    assert (second["subarachnoid"], second["epidural"], second["subdural"]) == (1, 0, 0)
    assert _by_label(labels.ties) == {**dict.fromkeys(LABELS, 0), "any": 1}


def test_cq500s_spellings_are_one() -> None:
    spellings = ("CQ500-CT-7", "CQ500CT7", "cq500ct07", "CQ500_CT_7 ", "CQ500-CT7")
    assert {canonical_id(each) for each in spellings} == {"CQ500-CT-7"}
    assert canonical_id("CQ500-CT-70") != canonical_id("CQ500-CT-7")
    assert canonical_id("1.2.03") == "1.2.03"


def test_any_is_made_of_subtypes_where_it_is_absent(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "own.csv",
        "StudyInstanceUID,note,epidural,intraparenchymal,intraventricular,subarachnoid,subdural",
        "1.1,x,0,0,0,0,0",
        "1.2,,0,0,1,,",
        "1.3,,0,0,0,0,",
    )
    labels = read_study_labels(path)
    assert labels.kind == "StudyInstanceUID"
    np.testing.assert_array_equal(labels.values[:, 0], [0, 1, NAN])
    np.testing.assert_array_equal(labels.values[1], [1, 0, 0, 1, NAN, NAN])


def test_a_contradiction_is_told_and_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.csv", "PatientID,any,subdural", "A,0,1", "B,1,0", "C,,1", "B,1,0")
    labels = read_study_labels(path)
    assert list(labels.contradicting) == ["A"]
    assert list(labels.ids) == ["A", "B", "C"]
    assert labels.values[:, 0].tolist() == [0, 1, 1]


def test_the_most_particular_id_is_used(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.csv", "PatientID,SeriesInstanceUID,StudyInstanceUID,any", "A,1.2.3,1.2,1")
    labels = read_study_labels(path)
    assert (labels.kind, list(labels.ids)) == ("SeriesInstanceUID", ["1.2.3"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["id,any", "A,1"], "has no id column; expected SeriesInstanceUID, StudyInstanceUID, PatientID, or name"),
        (["PatientID,bleed", "A,1"], "has no labels; expected columns any, epidural"),
        (["PatientID,any"], "has no rows"),
        (["PatientID,any", "A,0.5", "B,yes"], "2 values of any are not 0, 1 or empty: A has 0.5, B has yes"),
        (["PatientID,any", "A,1", "A,0"], "different labels of the same id: A"),
        (["PatientID,any", "A,1", " ,0"], "PatientID is empty in row 3"),
        (["PatientID,any", "A,1,1"], "row 2 has more fields than the header"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(UserError, match=r"own\.csv") as error:
        read_study_labels(_write(tmp_path / "own.csv", *lines))
    assert words in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"own.csv is missing; expected a CSV file"):
        read_study_labels(tmp_path / "own.csv")
