"""What is found in a scan, as numbers and as files: predictions.csv, summary.json and series.html in one folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.detector.folder import Description as DetectorDescription
from src.evaluate.operating_point import predictive_values
from src.files.atomic import replacing_folder
from src.labels import LABELS
from src.study.choose import gap_of
from src.study.find import Scan
from src.study.read import ReadScan

MOST_SUSPICIOUS = 5  # slices named in a summary
NOT_FOR_CLINICAL_USE = "Research only. Not a medical device, not for clinical use."
SUMMARY, PREDICTIONS, PAGE = "summary.json", "predictions.csv", "series.html"


@dataclass(frozen=True)
class Result:
    """A detector's answer to a scan: probabilities (S, 6) of its slices, (6,) of the whole, and warnings.

    unlike_training: (S,), which slices are farther from the training set than 99 of 100 that the networks had not seen;
    None where the detector does not know.
    """

    read: ReadScan
    probabilities: np.ndarray
    study: np.ndarray
    warnings: Sequence[str]
    unlike_training: np.ndarray | None = None


def predictions_table(result: Result) -> pd.DataFrame:
    """A row for each slice in z order: slice (from 1), SOPInstanceUID, frame (from 1), z in mm, six probabilities."""
    slices = result.read.scan.slices
    columns: dict[str, Any] = {
        "slice": np.arange(1, len(slices) + 1),
        "SOPInstanceUID": [each.sop_instance for each in slices],
        "frame": [each.frame or 1 for each in slices],
        "z": result.read.scan.z,
    }
    return pd.DataFrame(columns | dict(zip(LABELS, result.probabilities.T, strict=True)))


def calls(detector: DetectorDescription, study: np.ndarray, prevalence: float | None) -> dict[str, dict[str, Any]]:
    """What a study is called at each operating point of a detector: by name, then by label.

    prevalence: of any bleed where the study comes from, for the predictive values of the label any; None for those at
    the prevalence of the training data. Other labels have no predictive values: their prevalences are not known.
    """
    figures = detector.facts.get("levels", {}).get("study", {})
    found: dict[str, dict[str, Any]] = {}
    for name, thresholds in detector.operating_points.get("study", {}).items():
        found[name] = {}
        for label, probability in zip(LABELS, study, strict=True):
            threshold = thresholds[label]
            call: dict[str, Any] = {"threshold": threshold, "positive": None}
            if threshold is not None:
                call["positive"] = bool(probability >= threshold)
            found[name][label] = call | figures.get("operating", {}).get(name, {}).get(label, {})
        any_call = found[name]["any"]
        if any_call.get("sensitivity") is not None and any_call.get("specificity") is not None:
            known = prevalence if prevalence is not None else figures["positives"]["any"] / figures["cases"]
            rates = (np.array(any_call["sensitivity"]), np.array(any_call["specificity"]))
            ppv, npv = predictive_values(*rates, known)
            any_call |= {"prevalence": known, "ppv": _number(ppv), "npv": _number(npv)}
    return found


def summary_of(
    result: Result, detector: DetectorDescription, prevalence: float | None, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary of a scan. provenance: which detector and packages made it, and of which files."""
    scan, order = result.read.scan, np.argsort(-result.probabilities[:, 0], kind="stable")
    first = scan.first
    return {
        "note": NOT_FOR_CLINICAL_USE,
        "study": _by_label(result.study),
        "calls": calls(detector, result.study, prevalence),
        "most_suspicious": [
            {
                "slice": int(i) + 1,
                "SOPInstanceUID": scan.slices[i].sop_instance,
                "frame": scan.slices[i].frame or 1,
                "z": _number(scan.z[i]),
                **_by_label(result.probabilities[i]),
            }
            for i in order[:MOST_SUSPICIOUS]
        ],
        "warnings": list(result.warnings),
        "slices": len(scan.slices),
        "unlike_training": None if result.unlike_training is None else int(np.count_nonzero(result.unlike_training)),
        "unreadable": [
            {"path": str(each.path), "reason": each.reason, "message": each.message} for each in result.read.unreadable
        ],
        "series": {
            "PatientID": first.patient,
            "StudyInstanceUID": first.study,
            "SeriesInstanceUID": first.series,
            "part": scan.part,
            "number": first.series_number,
            "description": first.series_description,
            "gap_mm": _number(gap_of(scan)),
            "thickness_mm": _number(first.thickness),
            "kernel": first.kernel,
            "scanner": f"{first.manufacturer} {first.model}".strip(),
        },
        "provenance": dict(provenance),
    }


def details_of(scan: Scan) -> list[tuple[str, str]]:
    """Facts about a scan for a reader, by name; no patient's name."""
    first, gap = scan.first, gap_of(scan)
    header = first.header
    facts = [
        ("Study", first.study_description or first.study),
        ("Series", " ".join(filter(None, (first.series_number, first.series_description))) or first.series),
        ("Slices", f"{len(scan.slices)}" + (f", every {gap:.1f} mm" if np.isfinite(gap) else "")),
        ("Thickness", f"{first.thickness:.1f} mm" if np.isfinite(first.thickness) else ""),
        ("Matrix", f"{header.rows} x {header.columns}" if header else ""),
        ("Kernel", first.kernel),
        ("Scanner", f"{first.manufacturer} {first.model}".strip()),
    ]
    return [(name, value) for name, value in facts if value]


def write_result(
    folder: Path, result: Result, summary: Mapping[str, Any], page: str, objects: Mapping[str, bytes]
) -> None:
    """Write the folder of a scan, atomically; a folder of an earlier run is replaced. objects: bytes by path in it."""
    with replacing_folder(folder) as temporary:
        predictions_table(result).to_csv(temporary / PREDICTIONS, index=False)
        (temporary / SUMMARY).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if page:
            (temporary / PAGE).write_text(page, encoding="utf-8")
        for name, data in objects.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(data)


def finished_summary(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier run, where the same detector answered the same question about the same files."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        files = [PREDICTIONS, *found.get("dicom", {}).get("files", [])]
        same = found["provenance"] == dict(provenance) and all((folder / name).is_file() for name in files)
        return found if same and found["study"].keys() == set(LABELS) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True)
class Row:
    """A row of the work list. status: "read", "refused", "not read" or "failed"; the last four say why."""

    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    series: str
    status: str
    why: str
    summary: Mapping[str, Any] | None
    folder: str


def worklist(rows: Sequence[Row]) -> pd.DataFrame:
    """The scans by urgency: by the probability of any bleed, then those that failed, were refused, were not chosen."""
    listed = []
    for row in rows:
        found, values = row.summary or {}, asdict(row)
        del values["summary"]
        probabilities = found.get("study", dict.fromkeys(LABELS))
        positive = [label for label, call in found.get("calls", {}).get("youden", {}).items() if call["positive"]]
        suspicious = found["most_suspicious"][0]["slice"] if found else None
        listed.append(
            {
                **{key: values.pop(key) for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "series")},
                "status": values.pop("status"),
                **probabilities,
                "positive": " ".join(positive),
                "slice": suspicious,
                "warnings": " ".join(found.get("warnings", [])),
                **values,
            }
        )
    order = {"read": 0, "failed": 1, "refused": 2, "not read": 3}
    table = pd.DataFrame(listed)
    table["slice"] = table["slice"].astype("Int64")
    urgency = pd.DataFrame({"status": table["status"].map(order), "any": -table["any"].astype(float)})
    ordered = table.loc[urgency.sort_values(["status", "any"], kind="stable").index]
    return ordered.reset_index(drop=True)


def _by_label(values: np.ndarray) -> dict[str, float]:
    return {label: float(value) for label, value in zip(LABELS, values, strict=True)}


def _number(value: float | np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
