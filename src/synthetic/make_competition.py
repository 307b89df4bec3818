"""Generate a small competition: head CTs with bleeds, in Kaggle's layout and with the oddities of its files.

It serves a demo and tests that run anywhere, on data that may be redistributed. It does not replace real CT: nothing
measured on it says anything about patients.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.arguments import Parser, positive
from src.errors import UserError, first_few, run_command
from src.labels import LABELS, SUBTYPES
from src.preprocess.engine import run_tasks
from src.synthetic.dicom_writer import encode_dicom
from src.synthetic.easy.scan import Scan as EasyScan
from src.synthetic.encoding import ENCODINGS
from src.synthetic.hard.scan import Scan as HardScan
from src.synthetic.plan import (
    BLEEDING_FRACTION,
    DIFFICULTIES,
    MIN_PATIENTS,
    Mixture,
    Plan,
    make_plan,
    parse_mixture,
)
from src.synthetic.rendered import RenderedSlice

SCANS: dict[str, type[EasyScan] | type[HardScan]] = {"easy": EasyScan, "hard": HardScan}
DEFAULTS = {"easy": {"slices": 12, "size": 256}, "hard": {"slices": 32, "size": 512}}  # for the command line
GENERATOR_VERSION = 1  # increase it when the same settings give different files
GENERATOR = "src.synthetic.make_competition"
MARKER = "generated.json"
ROW_ORDER = (*SUBTYPES, "any")  # order of a slice's rows in Kaggle's CSVs
TRUNCATED_FRACTION = 0.3  # of a file's bytes that are kept, as in ID_6431af929
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Summary:
    """What was generated."""

    patients: int
    series: int
    slices: dict[str, int]  # number by split
    prevalence: dict[str, float]  # fraction of all slices, by label
    oddities: dict[str, list[str]]  # kind of oddity -> ids of slices, series or patients
    already_there: bool = False


def make_competition(
    output: Path,
    *,
    patients: int,
    slices: int,
    size: int,
    difficulty: str = "easy",
    seed: int = 0,
    bleeding: float | None = None,
    mixture: Mixture | None = None,
    jobs: int = 1,
) -> Summary:
    """Generate a competition in the folder `output`, completely or not at all.

    patients: in train and test together. slices: mean number per series. size: rows (and columns, except in one
    series). bleeding, mixture: the fraction of patients who bleed and the subtypes they have, as in `plan.make_plan`;
    for hard heads only. jobs: number of processes; it does not change the result, and the same settings always give the
    same bytes. If `output` already holds them, nothing is done; if it holds another generated competition, that is
    replaced. Raises UserError if it holds anything else.
    """
    layout: dict[str, Any] = {"patients": patients, "slices": slices, "size": size, "seed": seed}
    layout |= {"difficulty": difficulty, "bleeding": bleeding, "mixture": mixture}
    plan = make_plan(**layout)
    settings = {name: value for name, value in layout.items() if value is not None}
    if mixture is not None:
        settings["mixture"] = [["+".join(subtypes), weight] for subtypes, weight in mixture]  # as JSON returns it
    output = output.resolve()
    marker = _read_marker(output)
    same = marker.get("version") == GENERATOR_VERSION and marker.get("settings") == settings
    if same and marker.get("files") == _files(output):
        return Summary(**marker["summary"], already_there=True)

    partial = output.with_name(f"{output.name}.partial")
    _remove_own(partial)
    partial.mkdir(parents=True)
    _write_marker(partial, settings, summary=None)
    summary = _generate(partial, plan, layout, jobs)
    _write_marker(partial, settings, summary=summary)
    _swap_in(partial, output)
    return summary


def _generate(folder: Path, plan: Plan, layout: dict[str, Any], jobs: int) -> Summary:
    """Write images and tables. layout: the arguments of `make_plan`."""
    for split in SPLITS:
        (folder / f"stage_2_{split}").mkdir()
    # each worker makes the plan again, once, so that it need not be sent with every task
    tasks = ((str(folder), tuple(layout.items()), number) for number in range(len(plan.studies)))
    slices = sum(len(study.slice_ids) for study in plan.studies)
    labels: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    written = run_tasks(write_study, tasks, desc="generating head CTs", total=slices, size=len, jobs=jobs)
    for study, of_study in zip(plan.studies, written, strict=True):
        labels[study.split] |= dict(zip(study.slice_ids, of_study, strict=True))

    order = np.random.default_rng((layout["seed"], 1))  # a separate random stream
    _write_labels(folder / "stage_2_train.csv", labels["train"], plan.duplicated, order)
    truth = _write_labels(folder / "stage_2_test_truth.csv", labels["test"], (), order)
    truth.assign(Label=0.5).to_csv(folder / "stage_2_sample_submission.csv", index=False, lineterminator="\n")
    return _summarise(plan, labels)


def write_study(folder: str, layout: tuple[tuple[str, Any], ...], number: int) -> list[np.ndarray]:
    """Write the images of one study of a plan and return the labels of each, (6,).

    Studies can be written in any order. folder: the competition's; layout: the arguments of `make_plan`; number: the
    index of the study.
    """
    settings = dict(layout)
    plan, seed = make_plan(**settings), settings["seed"]
    study, scan_of = plan.studies[number], SCANS[plan.difficulty].of
    scan, labels = scan_of(study, seed), []
    for index, slice_id in enumerate(study.slice_ids):
        rendered = scan.slice(index)
        twin, copy = plan.identical
        if slice_id == copy:
            source = next(each for each in plan.studies if twin in each.slice_ids)
            rendered = _with_pixels_of(rendered, scan_of(source, seed).slice(source.slice_ids.index(twin)))
        if slice_id == plan.constant:
            rendered = RenderedSlice(
                np.zeros_like(rendered.stored), rendered.header, np.zeros_like(rendered.labels), {}
            )
        content = encode_dicom(rendered.stored, rendered.header)
        if slice_id in plan.truncated:
            content = content[: int(TRUNCATED_FRACTION * len(content))]
        (Path(folder) / f"stage_2_{study.split}" / f"{slice_id}.dcm").write_bytes(content)
        labels.append(rendered.labels)
    return labels


def _with_pixels_of(rendered: RenderedSlice, other: RenderedSlice) -> RenderedSlice:
    """Return a slice with the pixels, encoding and labels of another; the rest of its header stays."""
    header = replace(rendered.header, encoding=other.header.encoding)
    return RenderedSlice(other.stored, header, other.labels, other.covers)


def _write_labels(
    path: Path, labels: dict[str, np.ndarray], duplicated: tuple[str, ...], rng: np.random.Generator
) -> pd.DataFrame:
    """Write a CSV `ID,Label` with six rows per slice: slices in random order, those in `duplicated` twice."""
    names = [*labels, *duplicated]
    columns = [LABELS.index(label) for label in ROW_ORDER]
    shuffled = [names[i] for i in rng.permutation(len(names))]
    table = pd.DataFrame(
        {
            "ID": [f"{slice_id}_{label}" for slice_id in shuffled for label in ROW_ORDER],
            "Label": np.concatenate([labels[slice_id][columns] for slice_id in shuffled]),
        }
    )
    table.to_csv(path, index=False, lineterminator="\n")
    return table


def _summarise(plan: Plan, labels: dict[str, dict[str, np.ndarray]]) -> Summary:
    studies = plan.studies
    fractions = np.stack([row for split in SPLITS for row in labels[split].values()]).mean(axis=0)
    in_train = [study.patient_id for study in studies if study.split == "train"]
    in_test = {study.patient_id for study in studies if study.split == "test"}
    oddities = {
        "truncated file": list(plan.truncated),
        "constant slice": [plan.constant],
        "identical pixels under two patients": list(plan.identical),
        "duplicate CSV rows": list(plan.duplicated),
        "patient with several studies": sorted({name for name in in_train if in_train.count(name) > 1}),
        "patient in train and test": sorted(in_test.intersection(in_train)),
        "series not square": [study.series_id for study in studies if study.rows != study.columns],
        "several windows": [study.series_id for study in studies if isinstance(study.window[0], list)],
        "Implicit VR": [study.series_id for study in studies if not study.explicit_vr],
        "tilted gantry": [study.series_id for study in studies if study.tilted],
    }
    for name in ENCODINGS:
        oddities[f"stored {name}"] = [study.series_id for study in studies if study.encoding == name]
    return Summary(
        patients=len({study.patient for study in studies}),
        series=len(studies),
        slices={split: len(labels[split]) for split in SPLITS},
        prevalence={label: round(float(fraction), 4) for label, fraction in zip(LABELS, fractions, strict=True)},
        oddities=oddities,
    )


def _files(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of all files in a folder except the marker, by relative path."""
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in found if path != folder / MARKER}


def _write_marker(folder: Path, settings: dict[str, Any], *, summary: Summary | None) -> None:
    """Record in the folder how it was generated and which files may therefore be replaced."""
    content = {"generator": GENERATOR, "version": GENERATOR_VERSION, "settings": settings}
    if summary is not None:
        shown = asdict(summary)
        del shown["already_there"]
        content |= {"summary": shown, "files": _files(folder)}
    (folder / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_marker(folder: Path) -> dict[str, Any]:
    """Return the marker of a generated folder, or {} if the folder is missing or empty.

    Raises UserError if the folder holds anything that was not generated: it could be the competition's own data.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is a file; expected a folder, or a path where one can be created")
        return {}
    if not any(folder.iterdir()):
        return {}
    refusal = "was not generated here and would be deleted; give a new or empty folder"
    marker_path = folder / MARKER
    if not marker_path.is_file():
        raise UserError(f"the content of {folder} {refusal}")
    try:
        marker = json.loads(marker_path.read_text(encoding="utf-8"))
        ours = marker["generator"] == GENERATOR
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"the content of {folder} {refusal}")
    if "files" in marker:  # without it, this is the temporary folder of a stopped run, which holds no other files
        foreign = [name for name, size in _files(folder).items() if marker["files"].get(name) != size]
        if foreign:
            raise UserError(f"{first_few(foreign)} in {folder} {refusal}")
    return dict(marker)


def _remove_own(folder: Path) -> None:
    """Remove a folder left by an earlier run."""
    _read_marker(folder)
    if folder.is_dir():
        shutil.rmtree(folder)


def _swap_in(made: Path, output: Path) -> None:
    """Replace the old folder with the finished one."""
    old = output.with_name(f"{output.name}.old")
    _remove_own(old)
    if output.is_dir():
        output.rename(old)
    made.rename(output)
    if old.is_dir():
        shutil.rmtree(old)


def report(summary: Summary, output: Path) -> str:
    """Describe in a few lines what was generated."""
    train, test = summary.slices["train"], summary.slices["test"]
    lines = [
        f"{'already generated' if summary.already_there else 'generated'}: {output}",
        f"{summary.patients} patients, {summary.series} series, {train} slices in train and {test} in test",
        "fraction of slices: " + ", ".join(f"{name} {100 * part:.1f} %" for name, part in summary.prevalence.items()),
        "oddities: " + ", ".join(f"{what} {len(ids)}" for what, ids in summary.oddities.items()),
    ]
    return "\n".join(lines)


def _defaults(option: str) -> str:
    return ", ".join(f"{values[option]} for {difficulty}" for difficulty, values in DEFAULTS.items())


def main() -> None:
    """Parse the command line, generate, and print a summary."""
    parser = Parser(
        prog="python -m src.synthetic.make_competition",
        description="Generate head CTs with bleeds in Kaggle's layout, with the oddities of the competition's files.",
        epilog="example: python -m src.synthetic.make_competition --output cache/demo/input --patients 36 --slices 12 "
        "--size 128 --difficulty easy --seed 0",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to create or replace")
    parser.add_argument("--patients", type=int, default=36, help=f"in train and test together, at least {MIN_PATIENTS}")
    parser.add_argument("--slices", type=int, help=f"mean number per series (default: {_defaults('slices')})")
    parser.add_argument("--size", type=int, help=f"rows and columns (default: {_defaults('size')})")
    parser.add_argument(
        "--difficulty", choices=DIFFICULTIES, default="easy",
        help="easy: simple heads, large bright bleeds; hard: modelled on real CT (docs/hard.md) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--bleeding", type=float, metavar="FRACTION",
        help=f"hard only: fraction of patients who bleed (default: {BLEEDING_FRACTION['hard']})",
    )  # fmt: skip
    parser.add_argument(
        "--mixture", type=parse_mixture, metavar="SUBTYPES=WEIGHT[,...]",
        help="hard only: weights of subtypes, e.g. subdural=3,subdural+subarachnoid=1 (default: as in Kaggle's data)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="processes to use (default: all cores)")
    options = parser.parse_args()
    default = DEFAULTS[options.difficulty]
    summary = make_competition(
        options.output,
        patients=options.patients,
        slices=options.slices if options.slices is not None else default["slices"],
        size=options.size if options.size is not None else default["size"],
        difficulty=options.difficulty,
        seed=options.seed,
        bleeding=options.bleeding,
        mixture=options.mixture,
        jobs=options.jobs,
    )
    print(report(summary, options.output))


if __name__ == "__main__":
    run_command(main)
