"""The first section: how good it is, beside what would be had for nothing and what others reached; and what made it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import src
from src.documents import parse_yaml, read_text
from src.ensemble.scores import by_classifier
from src.evaluate.intervals import LOG, PatientRatios, interval, jackknife
from src.evaluate.score import constant_prior, log_losses
from src.files.layout import FoldFolder
from src.files.timing import read_timings
from src.labels import LABELS, WEIGHTS
from src.report.anchors import published_aucs, published_losses
from src.report.blocks import Column, Key, Missing, Section, Table, Words
from src.report.names import LABEL_TITLES
from src.report.sources import Sources
from src.synthetic.make_competition import MARKER

_GENERATED = "**These head CTs are generated.** The figures show that the pipeline learns, nothing about patients."
BAG, PRIOR = "bag", "constant prior"
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "pretrainedmodels",
    "efficientnet_pytorch",
    "accelerate",
    "albumentations",
    "numpy",
    "scipy",
    "pandas",
    "pydicom",
    "blosc2",
    "opencv-python-headless",
)


def headline(sources: Sources) -> Section:
    """The section."""
    section = Section(
        "headline", "Headline", "Every slice is predicted by networks that never saw its patient (out of fold)."
    )
    if (sources.layout.root / "input" / MARKER).is_file():
        section.blocks.append(Words([_GENERATED], warning=True))
    scored, members = sources.scored, sources.members
    if scored is None or members is None:
        section.blocks.append(Missing("No submission has been made and scored out of fold yet.", "ensemble"))
    else:
        candidates = dict(zip(members.names, members.probabilities, strict=True))
        candidates |= {
            name: values
            for name, values in by_classifier(members.names, members.probabilities).items()
            if sum(each.rpartition(" epoch ")[0] == name for each in members.names) > 1
        }
        candidates[BAG] = scored.probabilities[scored.truth.ids.get_indexer(members.truth.ids)]
        candidates[PRIOR] = constant_prior(members.truth.targets)
        losses = loss_table(members.truth.targets, members.truth.patients, candidates)
        published = published_losses()
        section.blocks += [losses, published, published_aucs()]
        section.keys = _keys(losses, published)
    section.blocks += [*_made_of(sources), _speed(sources)]
    return section


def loss_table(targets: np.ndarray, patients: np.ndarray, candidates: Mapping[str, np.ndarray]) -> Table:
    """Log losses with intervals over patients: targets (N, 6), patients (N,), candidates (N, 6) by name."""
    numbers = np.unique(patients, return_inverse=True)[1]
    n_patients, everyone = int(numbers.max()) + 1, np.ones((len(numbers), len(LABELS) + 1))
    rows = []
    for name, probabilities in candidates.items():
        losses = log_losses(targets, probabilities)
        losses = np.column_stack([np.average(losses, axis=1, weights=WEIGHTS), losses])
        mean = PatientRatios(losses, everyone, numbers)
        value, left_out = mean(np.ones(n_patients, dtype=np.int64)), jackknife(mean, n_patients)
        low, high = interval(value, left_out, LOG, n_patients)
        row: dict[str, Any] = {"what": name}
        for i, label in enumerate(("weighted", *LABELS)):
            row |= {label: value[i], f"{label}_low": low[i], f"{label}_high": high[i]}
        rows.append(row | {"slices": len(targets), "patients": n_patients})
    order = sorted(rows, key=lambda row: (row["what"] == PRIOR, row["what"] != BAG))
    columns = [Column("Out of fold", "what"), Column("weighted", "weighted", 4, interval=True)]
    columns += [Column(LABEL_TITLES[label], label, 4, interval=True) for label in LABELS]
    return Table(
        "log_loss",
        "Log loss by slice, with 95 % intervals over patients",
        pd.DataFrame(order),
        columns,
        "Lower is better. Weighted: the competition's metric, in which any hemorrhage counts twice. The constant prior "
        "predicts each label's prevalence for every slice: what is not below it has learned nothing.",
    )


def _keys(losses: Table, published: Table) -> list[Key]:
    last = len(losses.frame) - 1
    weighted = Column("", "weighted", 4, interval=True)
    return [
        Key("Weighted log loss of the bag", losses, 0, weighted, "lower is better"),
        Key(
            "of the constant prior", losses, last, Column("", "weighted", 4), "each label's prevalence for every slice"
        ),
        Key(
            "of the winners in 2019",
            published,
            len(published.frame) - 1,
            Column("", "weighted_log_loss", 4),
            "on the competition's test set, not on these data",
        ),
        Key("Slices scored", losses, 0, Column("", "slices")),
        Key("Patients", losses, 0, Column("", "patients")),
    ]


def _made_of(sources: Sources) -> list[Table | Missing]:
    """What the trained networks say that they were trained on and with."""
    rows: list[dict[str, Any]] = []
    packages: dict[str, str] = {}
    for folder in sources.folds:
        noted = _versions(folder)
        metrics = pd.read_csv(folder.metrics, usecols=["epoch"])
        rows.append(
            {
                "conf": folder.path.parent.name,
                "fold": int(folder.path.name.removeprefix("fold")),
                "epochs": int(metrics["epoch"].max()),
                "revision": str(noted.get("revision") or ""),
                "python": str(noted.get("python") or ""),
                "platform": str(noted.get("platform") or ""),
                "gpus": ", ".join(map(str, noted.get("gpus") or [])) or "none",
                "processes": noted.get("processes"),
            }
        )
        packages |= {name: version for name, version in (noted.get("packages") or {}).items() if name in _PACKAGES}
    if not rows:
        return [Missing("No network has been trained for an epoch yet.", "train")]
    columns = [
        Column("Conf", "conf"),
        Column("fold", "fold"),
        Column("epochs", "epochs"),
        Column("revision", "revision"),
        Column("Python", "python"),
        Column("platform", "platform"),
        Column("GPUs", "gpus"),
        Column("processes", "processes"),
    ]
    frame = pd.DataFrame(rows).sort_values(["conf", "fold"], ignore_index=True)
    versions = pd.DataFrame(
        [("this report", src.__version__), *sorted(packages.items())], columns=["package", "version"]
    )
    return [
        Table("networks", "What was trained, with which code and where", frame, columns, folded=True),
        Table(
            "packages",
            "Packages of the last training",
            versions,
            [Column("Package", "package"), Column("version", "version")],
            folded=True,
        ),
    ]


def _versions(folder: FoldFolder) -> dict[str, Any]:
    """The last entry of a training's versions; empty where there is none."""
    if not folder.versions.is_file():
        return {}
    entries = parse_yaml(read_text(folder.versions), str(folder.versions))
    last = entries[-1] if isinstance(entries, list) and entries else {}
    return dict(last) if isinstance(last, dict) else {}


def _speed(sources: Sources) -> Table | Missing:
    """Slices and seconds of each stage, as the stages recorded them."""
    timings = read_timings(sources.layout)
    rows = [
        {"stage": each.stage, "what": each.what, "slices": each.slices, "seconds": each.seconds} for each in timings
    ]
    for folder in sources.folds:
        metrics = pd.read_csv(folder.metrics)
        if "images_per_second" not in metrics:
            continue
        seconds = _slices(sources, folder) / metrics["images_per_second"]
        of = f"{folder.path.parent.name} {folder.path.name}"
        rows.append(
            {
                "stage": "train",
                "what": f"{of}, {len(metrics)} epochs",
                "slices": _slices(sources, folder) * len(metrics),
                "seconds": float(seconds.sum()),
            }
        )
    if not rows:
        return Missing("No stage has recorded its time yet.", "preprocess")
    frame = pd.DataFrame(rows)
    frame["slices_per_second"] = frame["slices"] / frame["seconds"]
    columns = [
        Column("Stage", "stage"),
        Column("of", "what"),
        Column("slices", "slices"),
        Column("seconds", "seconds", 1),
        Column("slices a second", "slices_per_second", 1),
    ]
    return Table(
        "speed",
        "Time of each stage",
        frame,
        columns,
        "Of training the steps alone, without validation and saving. What was there already is not timed again.",
        folded=True,
    )


def _slices(sources: Sources, folder: FoldFolder) -> int:
    """The slices that a fold's network is trained on in an epoch."""
    fold = int(folder.path.name.removeprefix("fold"))
    return 0 if sources.truth is None else int((sources.truth.folds != fold).sum())
