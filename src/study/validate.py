"""Validate a detector on labelled studies that it was not trained on: discrimination, calibration, by group."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from src.arguments import Parser, fraction
from src.detector.folder import find_detector
from src.errors import NotEnoughDisk, UserError, advising, first_few, run_command
from src.evaluate.external import Thresholds
from src.files.atomic import replacing
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.study_labels import StudyLabels, read_study_labels
from src.preprocess.engine import add_engine_arguments, engine_arguments
from src.study.answer import Reader, answer_all, rows_of_others
from src.study.choose import choose
from src.study.find import Found, find_studies
from src.study.match import Matched, match, named_nearly
from src.study.results import NOT_FOR_CLINICAL_USE, Row
from src.study.validation import cases_table, records, validation_frame
from src.study.validation_report import validation_report

FIGURES, SUMMARY, CASES = "validation.csv", "validation.json", "validation_cases.csv"


def answer_matched(reader: Reader, found: Found, matched: Matched, output: Path, *, everything: bool) -> list[Row]:
    """Choose, read and answer the series of the studies that have labels: a row of the work list for each.

    everything: read all series that may be heads. Answers are kept below `output`, as by `answer_all`.
    """
    choices = [
        choice for study in matched.studies for choice in choose(study, everything=everything, gap_mm=reader.gap_mm)
    ]
    others = rows_of_others(Found(matched.studies, found.passed_over, found.n_files))
    return [*answer_all(reader, choices, output), *others]


def write_validation(output: Path, frame: pd.DataFrame, cases: pd.DataFrame, facts: dict[str, object]) -> None:
    """Write the figures as CSV and, with facts about how they were made, as JSON; and the cases, each atomically."""
    for name, table in ((CASES, cases), (FIGURES, frame)):
        with replacing(output / name) as temporary:
            table.to_csv(temporary, index=False)
    content = json.dumps({**facts, "figures": list(records(frame))}, indent=1, allow_nan=False)
    with replacing(output / SUMMARY) as temporary:
        temporary.write_text(content + "\n", encoding="utf-8")


def facts_of(
    reader: Reader, csv: Path, labels: StudyLabels, matched: Matched, thresholds: Thresholds, prevalence: float | None
) -> dict[str, object]:
    """How figures were made: which detector, labels and thresholds, and what was left out by name."""
    return {
        "note": NOT_FOR_CLINICAL_USE,
        "detector": {"sha256": reader.sha256, "networks": len(reader.detector.description.networks)},
        "labels": {
            "file": str(csv),
            "sha256": file_sha256(csv),
            "by": labels.kind,
            "unmatched": list(matched.labels_left),
            "contradicting": list(labels.contradicting),
            "of_several_studies": list(matched.shared),
        },
        "studies_without_label": list(matched.studies_left),
        "studies_of_disagreeing_series": list(matched.disagreeing),
        "thresholds": {name: dict(by_label) for name, by_label in thresholds.items()},
        "prevalence": prevalence,
    }


def _names_left_out(labels: StudyLabels, matched: Matched) -> list[str]:
    """What did not match, or is odd, by name."""
    left, studies = matched.labels_left, matched.studies_left
    named = {
        "labels that match no study": named_nearly(left, studies) if left else "",
        "studies without labels": named_nearly(studies, left) if studies else "",
        "any is 0 though a subtype is 1": first_few(labels.contradicting),
        "one label for several studies": first_few(matched.shared),
        "labels of a study's series differ, and the maximum counts": first_few(matched.disagreeing),
    }
    return [f"{what}: {names}" for what, names in named.items() if names]


def _arguments(arguments: Sequence[str] | None = None) -> Namespace:
    parser = Parser(
        prog="python -m src.study.validate",
        description=__doc__,
        epilog="example: python -m src.study.validate /data/cq500 --labels reads.csv --output validation",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM files, folders at any depth, zips")
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="CSV", help="labels by study (docs/validation.md)"
    )
    parser.add_detector()
    parser.add_argument("--output", type=Path, default=Path("validation"), help="folder to write (default %(default)s)")
    parser.add_argument("--all-series", action="store_true", help="read every series that may be a head CT")
    parser.add_argument("--prevalence", type=fraction, help="of bleeds elsewhere, for further predictive values")
    parser.add_argument("--no-maps", action="store_true", help="pages without class activation maps, which is faster")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_root()
    add_engine_arguments(parser)
    return parser.parse_args(arguments)


def main() -> None:
    """Read arguments, match, answer, evaluate, report."""
    args = _arguments()
    # what needs seconds first: hours of reading are no place to learn of a wrong CSV
    labels = read_study_labels(args.labels)
    reader = Reader.load(args.detector or find_detector(Layout(args.root)), device=args.device, maps=not args.no_maps)
    found = find_studies(args.paths, **engine_arguments(args))
    if not any(study.scans for study in found.studies):
        raise UserError(f"no CT slices found in {found.n_files} files; expected DICOM files of head CTs")
    matched = match(labels, found.studies)
    print(f"{found.n_files} files, {len(found.passed_over)} passed over", flush=True)
    for line in _names_left_out(labels, matched):
        print(line, flush=True)
    thresholds = reader.detector.operating_points.get("study", {})
    with advising(NotEnoughDisk, "make room, or give another --output"):
        rows = answer_matched(reader, found, matched, args.output, everything=args.all_series)
        cases = cases_table(matched, rows)
        frame = validation_frame(cases, rows, labels, matched, thresholds, args.prevalence)
        facts = facts_of(reader, args.labels, labels, matched, thresholds, args.prevalence)
        write_validation(args.output, frame, cases, facts)
    print(f"\n{validation_report(frame)}\n")
    print(f"{args.output / FIGURES}: {len(frame)} figures; the studies are in {CASES}")
    if not (cases["status"] == "read").any():
        raise UserError(f"no study was read; {args.output / CASES} says why")


if __name__ == "__main__":
    run_command(main)
