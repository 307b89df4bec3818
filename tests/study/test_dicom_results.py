import io
import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pydicom
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.dataset import Dataset

from src.dicom.results import WARNING, uid_of
from src.labels import LABELS
from src.study.answer import Reader, answer_all
from src.study.choose import choose
from src.study.find import find_studies
from src.study.key_images import PANEL
from src.study.results import Row
from tests.study.conftest import Head, enhanced

# of SNOMED CT, typed here once more
CODES = {
    "any": "1386000",
    "epidural": "82999001",
    "intraparenchymal": "274100004",
    "intraventricular": "1386000",
    "subarachnoid": "21454007",
    "subdural": "35486000",
}
TAGS = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "M\u00fcller^J\u00fcrgen",
    "StudyDate": "20190102",
    "StudyTime": "030405.6",
    "AccessionNumber": "A-17",
    "StudyID": "S1",
    "ReferringPhysicianName": "Roe^Richard",
    "StudyDescription": "CT Sch\u00e4del",
}


class Answered(NamedTuple):
    files: list[Path]
    folder: Path
    summary: dict
    predictions: pd.DataFrame

    def object(self, name: str) -> Dataset:
        return pydicom.dcmread(self.folder / name)

    @property
    def objects(self) -> list[Path]:
        return sorted(self.folder.rglob("*.dcm"))


def _answer(reader: Reader, source: Path, out: Path) -> Row:
    (study,) = find_studies([source], engine="serial").studies
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of pydicom, where a value that is copied is not as it should be
        (row,) = answer_all(reader, choose(study, gap_mm=5.0), out)
    return row


@pytest.fixture(scope="module")
def reader(detector_folder: Path) -> Reader:
    return Reader.load(detector_folder, dicom=True)


@pytest.fixture(scope="module")
def answered(write_head: Head, reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """A head whose patient has letters that ASCII has not, answered with DICOM results. Not to be changed."""
    top = tmp_path_factory.mktemp("dicom")
    files = write_head(top / "in", **TAGS)
    row = _answer(reader, top / "in", top / "out")
    assert row.status == "read", row.why
    folder = top / "out" / row.folder
    summary = json.loads((folder / "summary.json").read_text())
    return Answered(files, folder, summary, pd.read_csv(folder / "predictions.csv"))


def _named(items: Dataset, meaning: str) -> list[Dataset]:
    return [each for each in items.ContentSequence if each.ConceptNameCodeSequence[0].CodeMeaning == meaning]


def _groups(report: Dataset) -> dict[str, Dataset]:
    (measurements,) = _named(report, "Imaging Measurements")
    return {_named(group, "Tracking Identifier")[0].TextValue: group for group in measurements.ContentSequence}


def _numbers(group: Dataset, meaning: str) -> list[float]:
    return [float(item.MeasuredValueSequence[0].NumericValue) for item in _named(group, meaning)]


def test_the_report_says_what_the_summary_says(answered: Answered) -> None:
    report = answered.object("report.dcm")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = _groups(report)
    assert list(groups) == list(LABELS)
    for label, group in groups.items():
        assert _named(group, "Finding")[0].ConceptCodeSequence[0].CodeValue == CODES[label]
        assert _numbers(group, "Probability") == [pytest.approx(answered.summary["study"][label], abs=1e-6)]
        unit = _named(group, "Probability")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
        assert (unit.CodingSchemeDesignator, unit.CodeValue) == ("UCUM", "1")
        call = answered.summary["calls"]["youden"][label]
        assert _numbers(group, "Threshold Value") == ([] if call["threshold"] is None else [call["threshold"]])
        said = _named(group, "Presence")[0].ConceptCodeSequence[0].CodeMeaning
        assert said == {True: "Present", False: "Absent", None: "Presence Undetermined"}[call["positive"]]
        top = answered.predictions.sort_values(label, ascending=False, kind="stable")["SOPInstanceUID"].head(3)
        images = [item.ReferencedSOPSequence[0] for item in _named(group, "Source of Measurement")]
        assert [image.ReferencedSOPInstanceUID for image in images] == top.tolist()
    site = _named(groups["intraventricular"], "Finding Site")[0].ConceptCodeSequence[0]
    assert (site.CodeValue, site.CodeMeaning) == ("35764002", "Brain ventricle")
    assert groups["any"] != groups["intraventricular"]


def test_the_report_names_its_maker_and_warns(answered: Answered) -> None:
    report = answered.object("report.dcm")
    (comment,) = _named(report, "Comment")
    assert comment.TextValue.startswith(WARNING)
    assert "Not a medical device" in comment.TextValue
    assert _named(report, "Observer Type")[0].ConceptCodeSequence[0].CodeMeaning == "Device"
    probability = _named(_groups(report)["any"], "Probability")[0]
    assert _named(probability, "Algorithm Name")[0].TextValue == "intracranial-hemorrhage"
    assert "sensitivity 0.950, specificity 0.800" in _named(probability, "Algorithm Parameters")[0].TextValue
    detector = answered.summary["provenance"]["detector"]
    assert detector[:12] in _named(probability, "Algorithm Version")[0].TextValue
    assert report.DeviceSerialNumber == detector
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_a_pacs_files_the_results_with_their_study(answered: Answered) -> None:
    source = pydicom.dcmread(answered.files[0])
    assert len(answered.objects) == 6
    for path in answered.objects:
        found = pydicom.dcmread(path)
        for keyword in (*TAGS, "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"):
            assert found[keyword].value == source[keyword].value, keyword
        assert found.SeriesInstanceUID != source.SeriesInstanceUID
        assert found.SeriesInstanceUID.is_valid
        assert found.SOPInstanceUID.is_valid
        assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
        assert found.SeriesDescription.startswith(WARNING)
        assert (found.ContentDate, found.ContentTime) == ("20190102", "030405.6")
        assert b"M\xfcller^J\xfcrgen" in path.read_bytes()  # in the character set that the tag names
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in answered.objects}) == 6
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in answered.objects}) == 2


def test_key_images_show_the_most_suspicious_slices(answered: Answered) -> None:
    for number, expected in enumerate(answered.summary["most_suspicious"], start=1):
        key = answered.object(f"key_images/{number:02d}.dcm")
        assert key.SourceImageSequence[0].ReferencedSOPInstanceUID == expected["SOPInstanceUID"]
        assert (key.InstanceNumber, key.BurnedInAnnotation, key.ConversionType) == (number, "YES", "WSD")
        assert list(key.PatientOrientation) == ["L", "P"]
        pixels = key.pixel_array
        assert pixels.shape[1:] == (2 * PANEL, 3)
        slices = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path).pixel_array for path in answered.files}
        brain = np.clip(slices[expected["SOPInstanceUID"]] / 80, 0, 1)
        panel = pixels[40 : 40 + PANEL, :PANEL]
        # away from letters each pixel lies between those of the slice's brain window around it
        rows, columns = np.mgrid[150:400:7, 100:400:7]
        at = (rows * len(brain) // PANEL, columns * len(brain) // PANEL)
        around = np.stack([np.roll(brain, (i - 1, j - 1), (0, 1))[at] for i, j in np.ndindex(3, 3)])
        shown = panel[rows, columns, 0] / 255
        assert (shown >= around.min(axis=0) - 0.01).all()
        assert (shown <= around.max(axis=0) + 0.01).all()
        assert (panel[rows, columns, 0] == panel[rows, columns, 2]).all()  # grey
        beside = pixels[40 : 40 + PANEL, PANEL:][rows, columns].astype(int)
        assert np.ptp(beside, axis=-1).max() > 5  # the map has colours, if pale ones: it is untrained
        assert (pixels[:36].max(axis=(0, 2)) > 200).sum() > 100  # the warning


def test_the_same_results_are_the_same_bytes(
    write_head: Head, reader: Reader, answered: Answered, tmp_path: Path
) -> None:
    write_head(tmp_path / "in", **TAGS)
    _answer(reader, tmp_path / "in", tmp_path / "out")
    write_head(tmp_path / "other", **TAGS | {"PatientName": "M\u00fcller^Hans"})
    _answer(reader, tmp_path / "other", tmp_path / "others")
    for path in answered.objects:
        name = path.relative_to(answered.folder)
        assert (tmp_path / "out" / answered.folder.name / name).read_bytes() == path.read_bytes(), name
        other = pydicom.dcmread(tmp_path / "others" / answered.folder.name / name)
        assert other.SOPInstanceUID != answered.object(str(name)).SOPInstanceUID


def test_a_second_run_keeps_them_and_one_that_is_missing_is_made_again(
    answered: Answered, reader: Reader, detector_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(answered.folder, tmp_path / "out" / answered.folder.name)
    folder = tmp_path / "out" / answered.folder.name
    before = (folder / "report.dcm").stat().st_mtime_ns
    _answer(reader, answered.files[0].parent, tmp_path / "out")
    assert (folder / "report.dcm").stat().st_mtime_ns == before
    (folder / "key_images" / "03.dcm").unlink()
    _answer(reader, answered.files[0].parent, tmp_path / "out")
    assert (folder / "key_images" / "03.dcm").read_bytes() == (answered.folder / "key_images" / "03.dcm").read_bytes()
    _answer(Reader.load(detector_folder, maps=False), answered.files[0].parent, tmp_path / "out")
    assert not list(folder.rglob("*.dcm"))  # not asked for


def test_frames_are_named_where_a_file_holds_many(write_head: Head, reader: Reader, tmp_path: Path) -> None:
    whole = enhanced(write_head(tmp_path / "slices", 12, **TAGS), tmp_path / "enhanced.dcm")
    row = _answer(reader, whole, tmp_path / "out")
    report = pydicom.dcmread(tmp_path / "out" / row.folder / "report.dcm")
    assert row.summary is not None
    first = row.summary["most_suspicious"][0]["frame"]
    referred = _named(_groups(report)["any"], "Source of Measurement")[0].ReferencedSOPSequence[0]
    assert referred.ReferencedFrameNumber == first
    assert referred.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2.1"
    key = pydicom.dcmread(tmp_path / "out" / row.folder / "key_images" / "01.dcm")
    assert key.SourceImageSequence[0].ReferencedFrameNumber == first
    _validate(sorted((tmp_path / "out").rglob("*.dcm"))[:2])


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"study": "ID_1a2b3c4d5e"}, "its StudyInstanceUID 'ID_1a2b3c4d5e' is no UID, by which a PACS would file them"),
        ({"series": "ID_77"}, "its SeriesInstanceUID 'ID_77' is no UID, by which a PACS would file them"),
    ],
)
def test_ids_that_are_no_uids_are_refused_in_one_line(
    write_head: Head, reader: Reader, tmp_path: Path, tags: dict[str, str], why: str
) -> None:
    with pydicom.config.disable_value_validation():
        write_head(tmp_path / "in", **tags)
    row = _answer(reader, tmp_path / "in", tmp_path / "out")
    assert row.status == "read"
    assert row.summary is not None
    assert row.summary["dicom"] == {"files": [], "why": why}
    assert (tmp_path / "out" / row.folder / "predictions.csv").is_file()
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_damaged_and_absent_tags_are_left_empty(write_head: Head, reader: Reader, tmp_path: Path) -> None:
    tags = {"StudyDate": "2019-01-02", "StudyTime": "noon", "PatientSex": "female", "PatientIdentityRemoved": "YES"}
    with pydicom.config.disable_value_validation():
        write_head(tmp_path / "in", patient="", **tags)
    row = _answer(reader, tmp_path / "in", tmp_path / "out")
    assert row.summary is not None
    assert row.summary["dicom"]["why"] == ""
    report = pydicom.dcmread(tmp_path / "out" / row.folder / "report.dcm")
    for keyword in ("StudyDate", "StudyTime", "PatientSex", "PatientID", "AccessionNumber"):
        assert not report[keyword].value
    assert "PatientIdentityRemoved" not in report  # it asks for a method, which the images do not name
    assert (report.ContentDate, report.ContentTime) == ("19000101", "000000")
    _validate(sorted((tmp_path / "out").rglob("*.dcm"))[:2])


def test_what_the_standard_asks_for_is_there(answered: Answered) -> None:
    # PS3.3's tables, as highdicom has them: what each mandatory module must have, conditions aside
    for path in answered.objects:
        found = pydicom.dcmread(path)
        iod = get_sop_class_iod_map()[found.SOPClassUID]
        modules = {str(each["key"]) for each in get_iod_module_map()[iod] if each["usage"] == "M"}
        assert {"patient", "general-study", "sop-common"} <= modules
        modules.discard("sr-document-content")  # its table has the tags of all kinds of items side by side
        for each in (each for module in modules for each in get_module_attribute_map()[module]):
            name = str(each["keyword"])
            if not each["path"] and each["type"] in ("1", "2"):
                assert name in found, (path.name, name)
                assert each["type"] == "2" or found[name].value not in ("", None), (path.name, name)


def _errors(path: Path) -> Iterator[str]:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("no dciodvfy (Debian: dicom3tools), which validates DICOM objects")
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True)
    # what is told first: which IOD the object was taken for
    assert any(word in done.stderr for word in ("ComprehensiveSR", "SCImage")), done.stderr
    yield from (line for line in done.stderr.splitlines() if line.startswith("Error"))


def _validate(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        assert list(_errors(path)) == [], path


def test_a_validator_finds_no_errors(answered: Answered) -> None:
    _validate(answered.objects)


def test_the_validator_would_find_them(answered: Answered, tmp_path: Path) -> None:
    for name, keyword in (("report.dcm", "ContentDate"), ("key_images/01.dcm", "ConversionType")):
        broken = answered.object(name)
        del broken[keyword]
        buffer = io.BytesIO()
        broken.save_as(buffer)
        (tmp_path / "broken.dcm").write_bytes(buffer.getvalue())
        assert any(keyword in error for error in _errors(tmp_path / "broken.dcm"))


def test_uids_are_hashes_of_all_their_parts() -> None:
    assert uid_of("a", "b") == uid_of("a", "b")
    assert len({uid_of("a", "b"), uid_of("ab"), uid_of("a", "b", "")}) == 3
    assert pydicom.uid.UID(uid_of("a")).is_valid
