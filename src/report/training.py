"""How the networks learned: losses, learning rate, speed and waiting for data by epoch, and the loss within epochs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from src.errors import UserError
from src.files.layout import FoldFolder
from src.report.blocks import Column, Figure, Group, Missing, Section, Table
from src.report.charts import DASHES, SERIES, drawing, legend
from src.report.sources import Sources

_COLUMNS = ("epoch", "lr", "train", "valid", "images_per_second", "waiting_fraction")
MOST_POINTS = 500  # of a curve over steps


def training(sources: Sources) -> Section:
    """The section."""
    section = Section(
        "training", "Training", "Of each network, by epoch. Validation is of the fold that it was not trained on."
    )
    if not sources.folds:
        section.blocks.append(Missing("No network has been trained for an epoch yet.", "train"))
        return section
    epochs = pd.concat([_metrics(folder) for folder in sources.folds], ignore_index=True)
    columns = [
        Column("Conf", "conf"),
        Column("fold", "fold"),
        Column("epoch", "epoch"),
        Column("training loss", "train", 4),
        Column("validation loss", "valid", 4),
        Column("learning rate", "lr", 6),
        Column("slices a second", "images_per_second", 1),
        Column("waiting for data, %", "waiting_fraction", 1, percent=True),
    ]
    section.blocks.append(
        Table(
            "epochs",
            "Each epoch",
            epochs,
            columns,
            "Losses are weighted log losses. The learning rate is that of the epoch's last step.",
            folded=True,
        )
    )
    for conf, of_conf in epochs.groupby("conf", sort=False):
        section.blocks.append(_figures(str(conf), of_conf))
    section.blocks += _steps(sources)
    return section


def _metrics(folder: FoldFolder) -> pd.DataFrame:
    """The epochs of one network: `conf`, `fold` and what was noted of each epoch."""
    table = pd.read_csv(folder.metrics)
    lacking = [name for name in _COLUMNS if name not in table]
    if lacking or not len(table):
        raise UserError(f"{folder.metrics} has no epochs with {', '.join(lacking or _COLUMNS)}", step="train")
    fold = int(folder.path.name.removeprefix("fold"))
    return pd.DataFrame({"conf": folder.path.parent.name, "fold": fold, **{name: table[name] for name in _COLUMNS}})


def _figures(conf: str, epochs: pd.DataFrame) -> Group:
    folds = [(int(fold), rows) for fold, rows in epochs.groupby("fold")]
    name = "".join(letter if letter.isalnum() else "_" for letter in conf.lower())

    def losses(axes: Axes) -> None:
        for i, (fold, rows) in enumerate(folds):
            colour = SERIES[i % len(SERIES)]
            axes.plot(rows["epoch"], rows["train"], "o--", color=colour, linewidth=1.2)
            axes.plot(rows["epoch"], rows["valid"], "o-", color=colour, label=f"fold {fold}")
        axes.plot([], [], "--", color="#4d5866", label="training")
        axes.plot([], [], "-", color="#4d5866", label="validation")

    def by_fold(column: str, factor: float = 1.0) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for i, (fold, rows) in enumerate(folds):
                dash = DASHES[i % len(DASHES)]
                axes.plot(
                    rows["epoch"],
                    factor * rows[column],
                    marker="o",
                    linestyle=dash,
                    color=SERIES[i % len(SERIES)],
                    label=f"fold {fold}",
                )

        return draw

    charts: list[tuple[str, str, str, Callable[[Axes], None]]] = [
        ("loss", "Loss", "weighted log loss", losses),
        ("lr", "Learning rate", "at the end of the epoch", by_fold("lr")),
        ("waiting", "Waiting for data", "% of the time", by_fold("waiting_fraction", 100)),
    ]
    figures = []
    for key, title, y, draw in charts:
        with drawing(title, "epoch", y) as (figure, axes):
            draw(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
            legend(axes)
        alt = f"{title} of {conf} by epoch, a line for each fold."
        figures.append(Figure(f"training_{name}_{key}", title, alt, "epochs", figure))
    return Group(conf, figures)


def _steps(sources: Sources) -> list[Table | Group]:
    """The training loss of each step, thinned, from what TensorBoard reads."""
    frames = []
    for folder in sources.folds:
        points = dict(point for path in sorted(folder.curves.glob("events.out.tfevents.*")) for point in _events(path))
        if points:
            steps = np.array(sorted(points))
            losses = np.array([points[step] for step in steps])
            frames.append(
                pd.DataFrame(
                    {
                        "conf": folder.path.parent.name,
                        "fold": int(folder.path.name.removeprefix("fold")),
                        **_thinned(steps, losses),
                    }
                )
            )
    if not frames:
        return []
    table = pd.concat(frames, ignore_index=True)
    figures = []
    for conf, of_conf in table.groupby("conf", sort=False):
        name = "".join(letter if letter.isalnum() else "_" for letter in str(conf).lower())
        with drawing(str(conf), "step", "training loss") as (figure, axes):
            for i, (fold, rows) in enumerate(of_conf.groupby("fold")):
                axes.plot(rows["step"], rows["loss"], color=SERIES[i % len(SERIES)], linewidth=1, label=f"fold {fold}")
            axes.set_ylim(bottom=0)
            legend(axes)
        figures.append(Figure(f"steps_{name}", str(conf), f"Training loss of {conf} by step.", "steps", figure))
    note = f"Means over neighbouring steps where there are more than {MOST_POINTS}."
    return [Table("steps", "Training loss by step", table), Group("Training loss by step", figures, note)]


def _events(path: Path) -> Iterator[tuple[int, float]]:
    """The steps of one of TensorBoard's files, and their training losses."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # here: it takes a second

    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == "step/loss":
                yield event.step, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value


def _thinned(steps: np.ndarray, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Means of as many neighbouring points as leave MOST_POINTS at most."""
    parts = np.array_split(np.arange(len(steps)), min(MOST_POINTS, len(steps)))
    return {
        "step": np.array([steps[part[-1]] for part in parts]),
        "loss": np.array([losses[part].mean() for part in parts]),
    }
