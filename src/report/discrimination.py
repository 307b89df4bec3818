"""How well bleeds are told from none: ROC and precision-recall curves, operating points, predictive values."""

import pandas as pd

from src.detector.operating import POINT_TITLES
from src.evaluate.curves import predictive_curves, ranking_curves
from src.evaluate.study import Cases
from src.evaluate.summary import summarise
from src.labels import LABELS
from src.report.blocks import Column, Figure, Group, Key, Missing, Section, Slider, Table
from src.report.charts import BAND, DASHES, MUTED, SERIES, drawing, legend
from src.report.names import LABEL_TITLES, LEVEL_TITLES
from src.report.sources import Sources

_WIDE = ("auc", "average_precision", "sensitivity", "specificity")


def discrimination(sources: Sources) -> Section:
    """The section."""
    section = Section(
        "discrimination",
        "Discrimination",
        "By slice, and by study, whose probability is the maximum over its slices. Bands and brackets: 95 % intervals "
        "over patients.",
    )
    if sources.scored is None:
        section.blocks.append(Missing("No submission has been made and scored out of fold yet.", "ensemble"))
        return section
    levels = sources.scored.levels
    summary = pd.concat([summarise(level, cases) for level, cases in levels.items()], ignore_index=True)
    wide = wide_summary(summary)
    shown = [Column("Label", "title"), Column("level", "level"), Column("cases", "n"), Column("positive", "positives")]
    shown += [
        Column(title, name, 3, interval=True)
        for title, name in zip(("AUC", "average precision", "sensitivity", "specificity"), _WIDE, strict=True)
    ]
    table = Table(
        "discrimination",
        "Discrimination",
        wide,
        shown,
        "Sensitivity and specificity are at the threshold with the largest Youden's J on the other folds. The chance "
        "level of the average precision is the fraction of positive cases.",
    )
    by_study = int(wide.index[(wide["level"] == "study") & (wide["label"] == "any")][0])
    section.keys = [
        Key(title, table, by_study, Column("", name, 3, interval=True), "any hemorrhage, by study")
        for title, name in (("AUC", "auc"), ("Sensitivity", "sensitivity"), ("Specificity", "specificity"))
    ]
    section.blocks += [table, Table("summary", "All statistics", summary), *_curves(levels)]
    section.blocks.append(_operating_points(sources))
    section.blocks += _predictive(levels)
    return section


def wide_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """A row for each level and label of `summarise`'s table, with a column for each statistic and its two ends."""
    rows = []
    for (level, label), of_label in summary[summary["label"] != "weighted"].groupby(["level", "label"], sort=False):
        by_metric = of_label.set_index("metric")
        row = {"level": level, "label": label, "title": LABEL_TITLES[str(label)]}
        row |= {"n": by_metric.at["auc", "n"], "positives": int(by_metric.at["auc", "positives"])}
        for metric in (*_WIDE, "brier_score", "log_loss"):
            row |= {metric: by_metric.at[metric, "value"]}
            row |= {f"{metric}_{end}": by_metric.at[metric, end] for end in ("low", "high")}
        rows.append(row | {"calibration_error": by_metric.at["calibration_error", "value"]})
    order = {label: i for i, label in enumerate(LABELS)}
    frame = pd.DataFrame(rows)
    return frame.sort_values("label", key=lambda each: each.map(order), kind="stable", ignore_index=True)


def _curves(levels: dict[str, Cases]) -> list[Table | Group]:
    frame = pd.concat([ranking_curves(cases).assign(level=level) for level, cases in levels.items()], ignore_index=True)
    blocks: list[Table | Group] = [Table("ranking_curves", "ROC and precision-recall curves", frame)]
    for curve, title, x, y in (
        ("roc", "ROC curves", "1 − specificity", "sensitivity"),  # noqa: RUF001 - a minus sign
        ("pr", "Precision-recall curves", "sensitivity (recall)", "precision (PPV)"),
    ):
        figures = []
        for label in LABELS:
            of_label = frame[(frame["label"] == label) & (frame["curve"] == curve)]
            if not len(of_label):
                continue
            with drawing(LABEL_TITLES[label], x, y, unit=True) as (figure, axes):
                for i, (level, line) in enumerate(of_label.groupby("level", sort=False)):
                    axes.fill_between(line["x"], line["low"], line["high"], color=SERIES[i], alpha=BAND, linewidth=0)
                    axes.plot(
                        line["x"], line["y"], color=SERIES[i], linestyle=DASHES[i], label=LEVEL_TITLES[str(level)]
                    )
                    if curve == "pr":
                        cases = levels[str(level)]
                        chance = float(cases.targets[:, LABELS.index(label)].mean())
                        axes.axhline(chance, color=SERIES[i], linewidth=0.8, linestyle=":")
                if curve == "roc":
                    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
                legend(axes)
            alt = f"{title[:-1]} of {LABEL_TITLES[label].lower()}, by slice and by study."
            figures.append(Figure(f"{curve}_{label}", LABEL_TITLES[label], alt, "ranking_curves", figure))
        absent = [LABEL_TITLES[label].lower() for label in LABELS if label not in set(frame["label"])]
        note = "Dotted: chance." + (
            f" Not defined, without cases of both kinds: {', '.join(absent)}." if absent else ""
        )
        blocks.append(Group(title, figures, note))
    return blocks


def _operating_points(sources: Sources) -> Table:
    """Thresholds as the detector has them, chosen on all out-of-fold cases."""
    assert sources.operating is not None  # noqa: S101 - of what was scored
    thresholds, facts = sources.operating
    rows = []
    for level, points in thresholds.items():
        for point, by_label in points.items():
            for label in LABELS:
                rates = facts["levels"][level]["operating"][point][label]
                rows.append(
                    {
                        "level": level,
                        "point": point,
                        "point_title": POINT_TITLES[point],
                        "label": label,
                        "title": LABEL_TITLES[label],
                        "threshold": by_label[label],
                        **rates,
                    }
                )
    frame = pd.DataFrame(rows).astype({"threshold": float, "sensitivity": float, "specificity": float})
    columns = [
        Column("Level", "level"),
        Column("operating point", "point_title"),
        Column("label", "title"),
        Column("threshold", "threshold", 4),
        Column("sensitivity", "sensitivity", 3),
        Column("specificity", "specificity", 3),
    ]
    return Table(
        "operating_points",
        "Operating points of the detector",
        frame,
        columns,
        "Chosen on all out-of-fold cases, and shown on the same: slightly too good, unlike the table above.",
        folded=True,
    )


def _predictive(levels: dict[str, Cases]) -> list[Table | Slider | Group | Missing]:
    frame = pd.concat(
        [predictive_curves(cases).assign(level=level) for level, cases in levels.items()], ignore_index=True
    )
    frame["title"] = frame["label"].map(LABEL_TITLES)
    frame = frame[["level", "prevalence", "label", "title", *(n for n in frame if n.startswith(("ppv", "npv")))]]
    if frame["npv"].isna().all():
        return [
            Missing("Predictive values need thresholds from other folds, and one fold alone is predicted.", "predict")
        ]
    columns = [
        Column("Prevalence, %", "prevalence", 0, percent=True),
        Column("label", "title"),
        Column("PPV, %", "ppv", 1, interval=True, percent=True),
        Column("NPV, %", "npv", 1, interval=True, percent=True),
    ]
    studies = frame[frame["level"] == "study"].reset_index(drop=True)
    figures = []
    for label in LABELS:
        of_label = studies[studies["label"] == label]
        if of_label[["ppv", "npv"]].isna().all(axis=None):
            continue
        with drawing(LABEL_TITLES[label], "prevalence, % of studies", "%") as (figure, axes):
            for i, value in enumerate(("ppv", "npv")):
                x, lines = 100 * of_label["prevalence"], 100 * of_label[[value, f"{value}_low", f"{value}_high"]]
                axes.fill_between(
                    x, lines[f"{value}_low"], lines[f"{value}_high"], color=SERIES[i], alpha=BAND, linewidth=0
                )
                axes.plot(x, lines[value], color=SERIES[i], linestyle=DASHES[i], label=value.upper())
            axes.set(ylim=(-1, 101), xlim=(0, 51))
            legend(axes)
        alt = f"PPV and NPV of {LABEL_TITLES[label].lower()} by study against its prevalence."
        figures.append(Figure(f"predictive_{label}", LABEL_TITLES[label], alt, "predictive_values", figure))
    note = (
        "By Bayes' theorem, at Youden's threshold of the other folds; they hold if bleeds elsewhere "
        "are as easy to see as here."
    )
    return [
        Table("predictive_values", "Predictive values at other prevalences, by slice too", frame),
        Slider(
            Table(
                "predictive_values_by_study", "Predictive values by study, at other prevalences", studies, columns, note
            ),
            by="prevalence",
            title="Prevalence of the label among studies, %",
        ),
        Group("PPV and NPV by study against prevalence", figures, note),
    ]
