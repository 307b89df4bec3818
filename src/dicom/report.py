"""The Structured Report of a scan: TID 1500 of PS3.16, as a Comprehensive SR (PS3.3 A.35.3).

For each label a measurement group (TID 1501): the finding, its probability as a number, whether it is called present
at the operating point, with the threshold, and references to the images in which it is most probable. The observer is a
device, and the algorithm is identified at each number (TID 1002, 1004, 4019).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from src.dicom.description import Description
from src.dicom.file import quiet_pydicom
from src.dicom.results import WARNING, About, add_shared, series_description, to_bytes

SERIES_NUMBER = 9001  # beyond those of scanners; no two series of a study need differ in it


class _Finding(NamedTuple):
    """How a label is coded: (code, meaning) of SNOMED CT, and of a place where the code does not say it."""

    code: str
    meaning: str
    site: CodedConcept | None = None


_VENTRICLES = CodedConcept("35764002", "SCT", "Brain ventricle")
_FINDINGS = {
    "any": _Finding("1386000", "Intracranial hemorrhage"),
    "epidural": _Finding("82999001", "Epidural intracranial hemorrhage"),
    "intraparenchymal": _Finding("274100004", "Cerebral hemorrhage"),
    "intraventricular": _Finding("1386000", "Intracranial hemorrhage", _VENTRICLES),
    "subarachnoid": _Finding("21454007", "Subarachnoid intracranial hemorrhage"),
    "subdural": _Finding("35486000", "Subdural intracranial hemorrhage"),
}

_PRESENCE = CodedConcept("705057003", "SCT", "Presence")
_CALLS = {
    True: CodedConcept("52101004", "SCT", "Present"),
    False: CodedConcept("272519000", "SCT", "Absent"),
    None: CodedConcept("121059", "DCM", "Presence Undetermined"),
}
_PROBABILITY = CodedConcept("122157", "DCM", "Probability")
_THRESHOLD = CodedConcept("122411", "DCM", "Threshold Value")
_NO_UNITS = CodedConcept("1", "UCUM", "no units")
_HEAD_CT = CodedConcept("303653007", "SCT", "Computed tomography of head")


@dataclass(frozen=True)
class LabelResult:
    """What is found of one label: its probability in the study, and the images in which it is most probable.

    threshold: of the operating point, and present: what that calls it; both None where a label has none.
    """

    label: str
    probability: float
    threshold: float | None
    present: bool | None
    images: Sequence[Description]


def write_report(about: About, results: Sequence[LabelResult], parameters: Sequence[str], comment: str) -> bytes:
    """Write a report as the bytes of a DICOM file.

    parameters: of the algorithm, such as the operating point, in words; comment: what a reader should know. Raises
    UnreadableDicom where a value that is copied from the images cannot be written.
    """
    with quiet_pydicom():
        algorithm = AlgorithmIdentification(
            name=about.maker.name,
            version=f"{about.maker.version}, detector {about.maker.detector[:12]}",
            parameters=list(parameters),
        )
        content = MeasurementReport(
            observation_context=ObservationContext(observer_device_context=_observer(about)),
            procedure_reported=_HEAD_CT,
            imaging_measurements=[_group(about, result, algorithm) for result in results],
            title=codes.DCM.ImagingMeasurementReport,
            language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(
                CodedConcept("en-US", "RFC5646", "English (United States)")
            ),
        )
        warning = TextContentItem(
            name=codes.DCM.Comment,
            value=f"{WARNING}. {comment}",
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        content[0].ContentSequence.insert(-1, warning)  # above the numbers, where a reader sees it first
        report = ComprehensiveSR(
            evidence=[_evidence(about, image) for result in results for image in result.images],
            content=content[0],
            series_instance_uid=about.uid("report"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=about.uid("report", "object"),
            instance_number=1,
            manufacturer=about.maker.name,
            is_complete=True,
            specific_character_set=None,  # the images' is set below
            series_description=series_description(about, "ICH report"),
        )
        add_shared(report, about)
        return to_bytes(report)


def _observer(about: About) -> ObserverContext:
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=about.maker.uid,
            name=f"{about.maker.name} {about.maker.version}",
            manufacturer_name=about.maker.name,
            model_name=about.maker.name,
            serial_number=about.maker.detector,
        ),
    )


def _group(
    about: About, result: LabelResult, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    """The measurement group of a label. TID 1501."""
    finding = _FINDINGS[result.label]
    numbers = [
        Measurement(
            name=_PROBABILITY,
            value=round(result.probability, 6),
            unit=_NO_UNITS,
            derivation=codes.SCT.Maximum,  # over the slices
            algorithm_id=algorithm,
        )
    ]
    if result.threshold is not None:
        numbers.append(Measurement(name=_THRESHOLD, value=round(result.threshold, 6), unit=_NO_UNITS))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(about.uid("finding", result.label), result.label),
        finding_type=CodedConcept(finding.code, "SCT", finding.meaning),
        finding_sites=None if finding.site is None else [FindingSite(finding.site)],
        measurements=numbers,
        qualitative_evaluations=[QualitativeEvaluation(_PRESENCE, _CALLS[result.present])],
        source_images=[
            SourceImageForMeasurementGroup(image.sop_class, image.sop_instance, [image.frame] if image.frame else None)
            for image in result.images
        ],
    )


def _evidence(about: About, image: Description) -> Dataset:
    """What highdicom wants to know of an image: its UIDs, patient and study."""
    known = Dataset()
    known.update(about.subject.tags)
    known.SOPClassUID, known.SOPInstanceUID = image.sop_class, image.sop_instance
    known.SeriesInstanceUID = image.series
    return known
