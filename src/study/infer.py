"""Read new studies with a detector: files, folders and zips of DICOM in; probabilities, pages and a work list out."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from src.arguments import Parser, fraction
from src.detector.detector import RUNTIMES
from src.detector.folder import find_detector
from src.detector.onnx import NoModels
from src.dicom.series import PassedOver
from src.errors import NotEnoughDisk, UserError, advising, run_command
from src.files.atomic import replacing
from src.files.layout import Layout
from src.preprocess.engine import add_engine_arguments, engine_arguments
from src.study.answer import Reader, answer_all, rows_of_others
from src.study.choose import Choice, choose
from src.study.find import Found, find_studies
from src.study.results import Row, worklist
from src.study.send import CALLING_TITLE, Server, due_objects, send, server_address


def main() -> None:
    """Read arguments, find, choose, answer, report."""
    parser = Parser(
        prog="python -m src.study.infer",
        description=__doc__,
        epilog="example: python -m src.study.infer /data/cd.zip /data/incoming --output answers",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM files, folders at any depth, zips")
    parser.add_detector()
    parser.add_argument("--output", type=Path, default=Path("answers"), help="folder to write (default %(default)s)")
    parser.add_argument("--series", nargs="+", default=[], metavar="UID", help="read these series alone")
    parser.add_argument("--all-series", action="store_true", help="read every series that may be a head CT")
    parser.add_argument(
        "--prevalence", type=fraction, help="of bleeds where the studies come from, for predictive values"
    )
    parser.add_argument("--no-maps", action="store_true", help="pages without class activation maps, which is faster")
    _add_dicom_arguments(parser)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="what computes (default: the faster of what there is)"
    )
    parser.add_root()
    add_engine_arguments(parser)
    args = parser.parse_args()
    server = _server(args)
    folder = args.detector or find_detector(Layout(args.root))
    settings = {"device": args.device, "runtime": args.runtime, "prevalence": args.prevalence}
    with advising(NoModels, "add them with sh bin/export.sh --onnx, or give --runtime torch"):
        reader = Reader.load(folder, **settings, maps=not args.no_maps, dicom=args.dicom)
    found = find_studies(args.paths, **engine_arguments(args))
    _require_any(found, args.series)
    choices = [
        choice
        for study in found.studies
        for choice in choose(study, wanted=args.series, everything=args.all_series, gap_mm=reader.gap_mm)
    ]
    _show_choices(found, choices)
    began = time.monotonic()
    with advising(NotEnoughDisk, "make room, or give another --output"):
        rows = [*answer_all(reader, choices, args.output), *rows_of_others(found)]
        table = worklist(rows)
        with replacing(args.output / "worklist.csv") as temporary:
            table.to_csv(temporary, index=False)
        with replacing(args.output / "passed_over.csv") as temporary:
            pd.DataFrame(found.passed_over, columns=PassedOver._fields).to_csv(temporary, index=False)
    _show_results(table, args.output, time.monotonic() - began)
    _show_missing_objects(rows)
    if not (table["status"] == "read").any():
        raise UserError(f"no series was read; {args.output / 'worklist.csv'} says why")
    if server:
        _send(rows, args.output, server, again=args.resend)


def _add_dicom_arguments(parser: Parser) -> None:
    parser.add_argument("--dicom", action="store_true", help="results as DICOM too: a report and key images")
    parser.add_argument("--send", type=server_address, metavar="HOST:PORT", help="store them on a DICOM server")
    parser.add_argument("--aet", metavar="TITLE", help="the server's AE title")
    parser.add_argument("--calling-aet", metavar="TITLE", help=f"AE title to send as (default {CALLING_TITLE})")
    parser.add_argument("--resend", action="store_true", help="send also what the server has stored before")


def _server(args: argparse.Namespace) -> Server | None:
    """The server that the arguments name, or None. Raises UserError where they do not fit together."""
    if not args.send:
        for name, given in (("--aet", args.aet), ("--calling-aet", args.calling_aet), ("--resend", args.resend)):
            if given:
                raise UserError(f"{name} without --send: expected --send HOST:PORT too")
        return None
    if not args.dicom or not args.aet:
        missing = "--aet TITLE, the server's AE title," if args.dicom else "--dicom"
        raise UserError(f"--send needs {missing} too")
    host, port = args.send
    return Server(host, port, args.aet, args.calling_aet or CALLING_TITLE)


def _send(rows: Sequence[Row], output: Path, server: Server, *, again: bool) -> None:
    """Send the DICOM results, with a line for each. Raises UserError where the server has not stored all."""
    files = due_objects(rows, output, server, again=again)
    if not files:
        print(f"{server}: nothing to send that it has not stored")
        return
    failed = 0
    for sent in send(server, files, output):
        failed += not sent.stored
        print(f"{sent.path.relative_to(output)}: {sent.answer}", flush=True)
    print(f"{server}: {len(files) - failed} of {len(files)} objects stored", flush=True)
    if failed:
        raise UserError(f"{failed} of {len(files)} objects were not stored by {server}; a second run sends them again")


def _show_missing_objects(rows: Sequence[Row]) -> None:
    for row in rows:
        why = (row.summary or {}).get("dicom", {}).get("why")
        if why:
            print(f"no DICOM results of series {row.series or row.SeriesInstanceUID}: {why}")


def _require_any(found: Found, wanted: Sequence[str]) -> None:
    if not any(study.scans for study in found.studies):
        reasons = pd.Series([each.reason for each in found.passed_over], dtype=str).value_counts()
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        objects = sum(len(series) for study in found.studies for series in study.others)
        counts = f"{found.n_files} files, {objects} DICOM objects of other kinds" + (f"; {why}" if why else "")
        raise UserError(f"no CT slices found ({counts}); expected DICOM files of a head CT")
    uids = {scan.uid for study in found.studies for scan in study.scans}
    missing = [uid for uid in wanted if uid not in uids]
    if missing:
        raise UserError(f"--series {missing[0]}: no CT series found with this SeriesInstanceUID")


def _show_choices(found: Found, choices: Sequence[Choice]) -> None:
    for study in found.studies:
        if not study.scans:
            continue
        print(f"study {study.uid}")
        scans = {id(scan) for scan in study.scans}
        for choice in choices:
            if id(choice.scan) in scans:
                name = choice.scan.first.series_number or choice.scan.name
                part = f" part {choice.scan.part}" if choice.scan.part else ""
                print(f"  {'read' if choice.read else 'not '} series {name}{part}: {choice.why}")
    others = sum(len(series) for study in found.studies for series in study.others)
    print(
        f"{found.n_files} files: {sum(len(choice.scan.slices) for choice in choices)} CT slices in {len(choices)} "
        f"series, {others} other DICOM objects, {len(found.passed_over)} passed over",
        flush=True,
    )


def _show_results(table: pd.DataFrame, output: Path, seconds: float) -> None:
    for _, row in table[table["status"].isin(["read", "refused", "failed"])].iterrows():
        name = row["series"] or row["SeriesInstanceUID"]
        if row["status"] == "read":
            called = f"positive: {row['positive']}" if row["positive"] else "below all thresholds"
            print(f"{row['any']:.3f} any, {called}; slice {row['slice']}; {row['folder']}/series.html")
            if row["warnings"]:
                print(f"      {row['warnings']}")
        else:
            print(f"{row['status']}: series {name}: {row['why']}")
    count = int((table["status"] == "read").sum())
    rate = f", {3600 * count / seconds:.0f} an hour" if count and seconds > 1 else ""
    print(f"{output / 'worklist.csv'}: {count} series read in {seconds:.0f} s{rate}")


if __name__ == "__main__":
    run_command(main)
