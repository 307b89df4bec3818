"""What the networks were given: counts, rejected files, prevalence, leaks, geometry, HU, and a look at some slices."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from src.ct.hounsfield import HU_RANGE
from src.ct.windows import THREE_WINDOWS, apply_windows
from src.files.image_store import ImageStore
from src.labels import LABELS
from src.report.blocks import Column, Figure, Group, Missing, Picture, Section, Table
from src.report.charts import SERIES, TEXT, drawing, legend, logarithmic
from src.report.names import LABEL_TITLES, SPLIT_TITLES
from src.report.sources import Sources

MOST_HISTOGRAM_SLICES = 2000
HU_BIN = 5  # HU
TILE = 192  # pixels, of an example


def data(sources: Sources) -> Section:
    """The section."""
    section = Section("data", "Data", "What preprocessing found, and what it made of it.")
    if all(sources.headers(split) is None for split in SPLIT_TITLES):
        section.blocks.append(Missing("Nothing has been preprocessed yet.", "preprocess"))
        return section
    section.blocks.append(_counts(sources))
    section.blocks += _audited(sources)
    series = sources.series
    section.blocks += [_series_summary(series), *_series_figures(series)]
    store = sources.layout.store("train")
    if not (store / "index.parquet").is_file() or sources.headers("train") is None:
        section.blocks.append(Missing("No training slices have been stored yet.", "preprocess"))
        return section
    images = ImageStore(store)
    section.blocks += _histogram(images)
    section.blocks += _examples(images, sources)
    return section


def _counts(sources: Sources) -> Table:
    rows = []
    for split, title in SPLIT_TITLES.items():
        table, index = sources.headers(split), sources.index(split)
        if table is None:
            continue
        usable = table[table["reason"] == ""]
        rows.append(
            {
                "split": title,
                "ids": len(table),
                "stored": None if index is None else len(index),
                "unusable_headers": len(table) - len(usable),
                "patients": usable["PatientID"].nunique(),
                "studies": usable["StudyInstanceUID"].nunique(),
                "series": usable["SeriesInstanceUID"].nunique(),
            }
        )
    columns = [
        Column("Set", "split"),
        Column("slices listed", "ids"),
        Column("slices stored", "stored"),
        Column("unusable headers", "unusable_headers"),
        Column("patients", "patients"),
        Column("studies", "studies"),
        Column("series", "series"),
    ]
    return Table("counts", "Slices, patients, studies, series", pd.DataFrame(rows), columns)


def _audited(sources: Sources) -> Sequence[Table | Missing]:
    """What the audit has found: rejects, prevalence by fold, leaks."""
    audit = sources.audit
    if audit is None:
        return [Missing("The data have not been audited yet.", "preprocess")]
    rejects = [
        {"split": SPLIT_TITLES.get(split, split), "reason": reason, "slices": count}
        for split, reasons in audit["rejected"].items()
        for reason, count in sorted(reasons.items())
    ]
    prevalence = pd.DataFrame(audit["prevalence"]).T.reset_index(names="fold")
    leaks = [
        {"between": where.replace("_", " "), "what": what, "shared": shared["count"]}
        for where in ("between_folds", "between_train_and_test")
        for what, shared in audit[where].items()
    ]
    leaks += [
        {"between": "labels", "what": what.replace("_", " "), "shared": count}
        for what, count in audit["labels"].items()
    ]
    shown = [Column("Fold", "fold"), Column("slices", "slices"), Column("patients", "patients")]
    shown += [Column(LABEL_TITLES[label], label, 2, percent=True) for label in LABELS]
    return [
        Table(
            "prevalence", "Prevalence by fold, % of slices", prevalence, shown, beside=[_prevalence_figure(prevalence)]
        ),
        Table(
            "leaks",
            "Leaks and contradictions",
            pd.DataFrame(leaks, columns=["between", "what", "shared"]),
            [Column("Between", "between"), Column("what", "what"), Column("found", "shared")],
            "Anything between folds is a leak, by which a network would be judged on what it has seen: expected is 0. "
            "Patients in both the training and the test set are a property of the competition's data.",
        ),
        Table(
            "rejected",
            "Rejected slices by reason" if rejects else "Rejected slices: none",
            pd.DataFrame(rejects, columns=["split", "reason", "slices"]),
            [Column("Set", "split"), Column("reason", "reason"), Column("slices", "slices")],
        ),
    ]


def _prevalence_figure(prevalence: pd.DataFrame) -> Figure:
    folds = prevalence[prevalence["fold"] != "all"]
    with drawing("", "% of slices", "", (3.9, 2.9)) as (figure, axes):
        width = 0.8 / max(len(folds), 1)
        for i, (_, row) in enumerate(folds.iterrows()):
            y = np.arange(len(LABELS)) + (i - (len(folds) - 1) / 2) * width
            axes.barh(
                y, [100 * row[label] for label in LABELS], width * 0.9, color=SERIES[i % 6], label=f"fold {row['fold']}"
            )
        axes.set_yticks(range(len(LABELS)), [LABEL_TITLES[label] for label in LABELS])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        legend(axes)
    return Figure(
        "prevalence",
        "Prevalence by fold",
        "Bars: the percentage of slices with each label, by fold.",
        "prevalence",
        figure,
    )


_MEASURES = {
    "slices": ("slices of a series", "slices"),
    "length_mm": ("length along the normal", "mm"),
    "gap_mm": ("distance of adjacent slices", "mm"),
    "tilt_degrees": ("gantry tilt", "degrees"),
}


def _series_summary(series: pd.DataFrame) -> Table:
    rows = []
    for split, of_split in series.groupby("split", sort=False):
        for name, (what, unit) in {**_MEASURES, "largest_gap_mm": ("largest gap of a series", "mm")}.items():
            known = of_split[name].dropna()
            quantiles = known.quantile([0, 0.05, 0.5, 0.95, 1]) if len(known) else [np.nan] * 5
            row = {"split": SPLIT_TITLES[str(split)], "what": f"{what}, {unit}", "series": len(known)}
            rows.append(row | dict(zip(("least", "p5", "median", "p95", "most"), quantiles, strict=True)))
    columns = [Column("Set", "split"), Column("what", "what"), Column("series", "series")]
    columns += [
        Column(title, name, 1)
        for title, name in (("least", "least"), ("5 %", "p5"), ("median", "median"), ("95 %", "p95"), ("most", "most"))
    ]
    return Table("series_summary", "Geometry of series", pd.DataFrame(rows), columns)


def _series_figures(series: pd.DataFrame) -> list[Table | Group]:
    rows, figures = [], []
    for name, (what, unit) in _MEASURES.items():
        known = series.dropna(subset=[name])
        if not len(known):
            continue
        low, high = known[name].quantile([0, 0.995])
        edges = np.linspace(low, max(high, low + 1), 26)
        with drawing(what.capitalize(), unit, "% of series") as (figure, axes):
            for i, (split, of_split) in enumerate(known.groupby("split", sort=False)):
                counts, _ = np.histogram(np.clip(of_split[name], edges[0], edges[-1]), edges)
                fractions = counts / len(of_split)
                axes.stairs(
                    100 * fractions,
                    edges,
                    color=SERIES[i],
                    linestyle=["-", "--"][i],
                    linewidth=1.6,
                    label=SPLIT_TITLES[str(split)],
                )
                rows += [
                    {"measure": name, "split": split, "from": a, "to": b, "series": n, "fraction": f}
                    for a, b, n, f in zip(edges[:-1], edges[1:], counts, fractions, strict=True)
                ]
            legend(axes)
        alt = f"Histogram of the {what} in {unit}, training and test set."
        figures.append(Figure(f"series_{name}", what.capitalize(), alt, "series_histograms", figure))
    table = Table("series_histograms", "Histograms of series", pd.DataFrame(rows))
    return [table, Group("Series", figures, "What is beyond the largest half percent is counted in the last bin.")]


def _histogram(images: ImageStore) -> list[Table | Group]:
    """How often each HU comes, in a sample of slices."""
    count = min(MOST_HISTOGRAM_SLICES, len(images))
    sample = np.sort(np.random.default_rng(0).choice(len(images), count, replace=False))
    edges = np.arange(HU_RANGE[0], HU_RANGE[1] + HU_BIN, HU_BIN)
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for row in sample:
        counts += np.histogram(images.read(int(row)), edges)[0]
    frame = pd.DataFrame(
        {"from_hu": edges[:-1], "to_hu": edges[1:], "pixels": counts, "fraction": counts / counts.sum()}
    )
    with drawing("", "HU", "% of pixels", (3.9, 2.9)) as (figure, axes):
        axes.stairs(100 * frame["fraction"], edges, fill=True, color=SERIES[0])
        logarithmic(axes)
        for (level, width), name, height in zip(
            THREE_WINDOWS, ("brain", "blood", "soft tissue"), (0.97, 0.9, 0.83), strict=True
        ):
            axes.plot(
                [level - width / 2, level + width / 2], [height] * 2, transform=axes.get_xaxis_transform(), color=TEXT
            )
            axes.text(
                level + width / 2 + 4,
                height,
                name,
                transform=axes.get_xaxis_transform(),
                va="center",
                fontsize=8,
            )
        axes.set_xlim(*HU_RANGE)
    alt = "Histogram of HU, with the ranges of the brain, blood and soft-tissue window above it."
    note = (
        f"Of {count} slices, drawn at random. HU are kept from {HU_RANGE[0]} to {HU_RANGE[1]}; what is outside, such "
        "as air and bone, is counted at the ends."
    )
    return [
        Table("hu_histogram", "HU of stored slices", frame),
        Group(
            "HU of stored slices", [Figure("hu_histogram", "HU of stored slices", alt, "hu_histogram", figure)], note
        ),
    ]


def _examples(images: ImageStore, sources: Sources) -> list[Table | Picture]:
    """A slice of each label, and one without any, in the three windows."""
    labels = sources.headers("train").merge(images.index[["ID", "brain_share"]], on="ID")  # type: ignore[union-attr]
    subtypes = [label for label in LABELS if label != "any"]
    rows, tiles = [], []
    shown: set[str] = set()
    for label in (*subtypes, "none"):
        wanted = (labels["any"] == 0) if label == "none" else (labels[label] == 1) & (labels[subtypes].sum(axis=1) == 1)
        if label != "none" and not wanted.any():
            wanted = labels[label] == 1
        wanted &= ~labels["SeriesInstanceUID"].isin(shown)
        if not wanted.any():
            continue
        # most brain: a slice through the middle of the head shows most to most eyes
        best = labels[wanted].sort_values(["brain_share", "ID"], ascending=[False, True]).iloc[0]
        shown.add(best["SeriesInstanceUID"])
        hu = images.hounsfield(best["ID"])
        tiles.append(np.vstack([_tile(view) for view in np.moveaxis(apply_windows(hu), -1, 0)]))
        rows.append({"column": len(tiles), "label": LABEL_TITLES.get(label, "No hemorrhage"), "ID": best["ID"]})
    if not tiles:
        return []
    strip = np.hstack(tiles)
    png = cv2.imencode(".png", strip)[1].tobytes()
    listed = ", ".join(row["label"].lower() for row in rows)
    table = Table(
        "examples",
        "Examples, from left to right",
        pd.DataFrame(rows),
        [Column("Column", "column"), Column("label", "label"), Column("slice", "ID")],
        folded=True,
    )
    title = f"Examples. Left to right: {listed}. Top to bottom: brain, blood and soft-tissue window, as stored."
    return [
        Picture("examples", title, title, png, strip.shape[1], strip.shape[0], [row["label"] for row in rows]),
        table,
    ]


def _tile(view: np.ndarray) -> np.ndarray:
    """A window of a slice as a square: (rows, columns) in [0, 1] -> (TILE, TILE) uint8."""
    scale = TILE / max(view.shape)
    size = (round(view.shape[1] * scale), round(view.shape[0] * scale))
    small = cv2.resize(view, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    tile = np.zeros((TILE, TILE), dtype=np.uint8)
    top, left = (TILE - small.shape[0]) // 2, (TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = np.rint(255 * small)
    return tile
