"""Results as DICOM objects, for a PACS: a Structured Report and key images of the most suspicious slices."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import src
from src.dicom.description import Description
from src.dicom.file import UnreadableDicom
from src.dicom.key_image import write_key_image
from src.dicom.report import LabelResult, write_report
from src.dicom.results import About, Maker, read_subject, why_no_results
from src.labels import LABELS
from src.study.key_images import Picture, draw
from src.study.results import MOST_SUSPICIOUS, NOT_FOR_CLINICAL_USE, Result

DICOM_FORMAT = 1  # of what is written; another one is written anew
REPORT, KEY_IMAGES = "report.dcm", "key_images"
NAME = "intracranial-hemorrhage"
POINT = "youden"  # the operating point that a report calls by, as the work list does
IMAGES_OF_LABEL = 3  # that a report refers to for each label


class NoDicomResults(Exception):  # noqa: N818 - it names what there is not
    """No DICOM object can be made about a scan; the text says why."""


def dicom_results(
    result: Result, summary: Mapping[str, Any], maps: np.ndarray | None, detector: str
) -> dict[str, bytes]:
    """Make the DICOM objects about a scan: the bytes of each file by its path in the scan's folder.

    maps: (S, 6, size, size) class activation maps, or None; detector: SHA-256 of its description. Raises NoDicomResults
    where the images have no UIDs, or tags of theirs that must be copied are damaged; OSError for errors of the machine.
    """
    scan = result.read.scan
    why = why_no_results(scan.slices)
    if why:
        raise NoDicomResults(why)
    maker = Maker(NAME, src.__version__, detector)
    try:
        subject = read_subject(scan.first.source)
        about = About(subject, scan.first.study, scan.name, scan.first.series_number, maker)
        return {REPORT: _report(about, result, summary), **_key_images(about, result, summary, maps)}
    except UnreadableDicom as error:
        raise NoDicomResults(str(error)) from error


def _report(about: About, result: Result, summary: Mapping[str, Any]) -> bytes:
    calls = summary["calls"].get(POINT, {})
    findings = [
        LabelResult(
            label=label,
            probability=float(result.study[i]),
            threshold=calls.get(label, {}).get("threshold"),
            present=calls.get(label, {}).get("positive"),
            images=_images(result, i),
        )
        for i, label in enumerate(LABELS)
    ]
    comment = (
        f"{NOT_FOR_CLINICAL_USE} Probabilities are of the study, the maximum over its slices; images are those in "
        f"which a label is most probable. {' '.join(result.warnings)}"
    )
    return write_report(about, findings, _parameters(calls), comment.strip())


def _images(result: Result, label: int) -> list[Description]:
    order = np.argsort(-result.probabilities[:, label], kind="stable")
    return [result.read.scan.slices[i] for i in order[:IMAGES_OF_LABEL]]


def _parameters(calls: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The operating point in words, with what it reached for any bleed on out-of-fold predictions."""
    if not calls:
        return ["No operating point: nothing is called present or absent"]
    known = calls["any"]
    rates = [f"{name} {known[name]:.3f}" for name in ("sensitivity", "specificity") if known.get(name) is not None]
    reached = f"; for any, {', '.join(rates)} on out-of-fold predictions" if rates else ""
    return [f"Operating point: {POINT}{reached}"]


def _key_images(about: About, result: Result, summary: Mapping[str, Any], maps: np.ndarray | None) -> dict[str, bytes]:
    order = np.argsort(-result.probabilities[:, 0], kind="stable")[:MOST_SUSPICIOUS]
    pictures = [draw(_picture(about, result, summary, maps, int(i))) for i in order]
    drawn = hashlib.sha256(b"".join(each.tobytes() for each in pictures)).hexdigest()
    return {
        f"{KEY_IMAGES}/{number:02d}.dcm": write_key_image(about, picture, result.read.scan.slices[i], number, drawn)
        for number, (i, picture) in enumerate(zip(order, pictures, strict=True), start=1)
    }


def _picture(about: About, result: Result, summary: Mapping[str, Any], maps: np.ndarray | None, i: int) -> Picture:
    scan = result.read.scan
    calls = summary["calls"].get(POINT, {})
    place = f"Slice {i + 1} of {len(scan.slices)}"
    if np.isfinite(scan.z[i]):
        place += f", z {scan.z[i]:.1f} mm"
    if about.number:
        place += f", series {about.number}"
    return Picture(
        image=scan.slices[i],
        hu=result.read.pixels[i],
        map=None if maps is None else maps[i, 0],
        place=place,
        probabilities=_by_label(result.probabilities[i]),
        study=_by_label(result.study),
        called={label: calls.get(label, {}).get("positive") for label in LABELS},
        notes=_notes(about),
    )


def _notes(about: About) -> Sequence[str]:
    maker = about.maker
    return [
        f"{maker.name} {maker.version}, detector {maker.detector[:12]}; thresholds: operating point {POINT}",
        "Not a medical device; not for diagnosis or triage. Made by software; checked by no reader.",
    ]


def _by_label(values: np.ndarray) -> dict[str, float]:
    return {label: float(value) for label, value in zip(LABELS, values, strict=True)}
