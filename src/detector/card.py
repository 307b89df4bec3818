"""The model card of a detector: what it is, what it was trained on, how well it did, and what it must not be used for.

Source of the form: Mitchell et al., "Model cards for model reporting", FAT* 2019.
"""

from dataclasses import dataclass
from math import isnan
from typing import Any

from src.detector.folder import Description
from src.detector.operating import OPERATING_POINTS, POINT_TITLES
from src.labels import LABELS
from src.text_table import markdown_table

_LIMITS = [
    "Other scanners, protocols, patients and prevalences than those of the training data lower its figures; only an "
    "evaluation on data from there can show how far.",
    "A study's probability is the maximum over its slices. It ranks studies; it is not calibrated.",
    "It answers for every series it is given: what is no head CT must be kept from it (docs/study.md).",
    "Whether figures differ by age, sex, scanner or site has not been measured: the training data do not record them.",
]
_Blocks = list[str | list[str] | tuple[list[str], ...]]


@dataclass(frozen=True)
class CardSection:
    """A section of a card, or with an empty title what stands before the first.

    blocks: paragraphs, which are text; lists, which are lists of text; and tables, which are tuples of rows, the first
    the header. Text is Markdown, but for `**bold**` and code in backticks plain.
    """

    title: str
    blocks: _Blocks


TITLE = "Detector of intracranial hemorrhage on head CT"


def model_card(description: Description) -> str:
    """The card, in Markdown."""
    parts = [f"# {TITLE}"]
    for section in card_sections(description):
        parts += [f"## {section.title}"] if section.title else []
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, tuple):
                parts.append("\n".join(markdown_table(block)))
            else:
                parts.append("\n".join(f"- {item}" for item in block))
    return "\n\n".join(parts) + "\n"


def card_sections(description: Description) -> list[CardSection]:
    """What the card says."""
    facts = description.facts
    return [
        CardSection(
            "",
            [
                "Six probabilities for every slice of a head CT: any hemorrhage, epidural, intraparenchymal, "
                "intraventricular, subarachnoid, subdural. **Not a medical device. Not for clinical use.**"
            ],
        ),
        CardSection(
            "Intended use",
            [
                "Research: comparison of methods, retrospective studies, teaching. It is not intended for diagnosis, "
                "triage or any other decision about a patient."
            ],
        ),
        *([CardSection("About this detector", facts["about"].split("\n\n"))] if facts.get("about") else []),
        CardSection("What it consists of", _consists(description)),
        CardSection("Training data", _training_data(facts)),
        CardSection("Out-of-fold figures", _figures(facts)),
        CardSection("Operating points", _operating_points(description)),
        CardSection("What is unlike the training data", [_distance(description)]),
        CardSection("Limits", [_LIMITS]),
        CardSection(
            "Licence",
            [
                "The code is under the MIT licence. Terms of the training data, and of the weights that training "
                "started from, may bind the weights."
            ],
        ),
    ]


def _consists(description: Description) -> _Blocks:
    facts = description.facts
    rows = [["member", "networks (fold, epoch)", "weight"]]
    for member in description.members:
        of = ", ".join(f"({network.fold}, {network.epoch})" for network in member.networks)
        rows.append([member.name, of, f"{description.numbers['weights'][member.name]:.3f}"])
    classifiers = [
        f"`{name}`: {config.network.architecture}, {config.image_size} x {config.image_size} pixels, "
        f"{2 * config.neighbours + 1} slice{'s' if config.neighbours else ''} at a time"
        for name, config in description.classifiers.items()
    ]
    sequences = [
        f"`{name}`: {model.config.model.name} over the slices of a series, on embeddings by `{model.classifier}`"
        for name, model in description.sequences.items()
    ]
    recipe = f"Recipe: {description.recipe.name}; smoothing along z {description.numbers['smooth_mm']:g} mm."
    blocks: _Blocks = [[*classifiers, *sequences], tuple(rows), recipe]
    if facts["networks"] < facts["networks_of_submission"]:
        blocks.append(
            f"**This is a smaller detector**: {facts['networks']} of the submission's "
            f"{facts['networks_of_submission']} networks. The figures and operating points below are those of the "
            "whole submission."
        )
    return blocks


def _training_data(facts: dict[str, Any]) -> _Blocks:
    if "training" not in facts:
        return ["Not known: the submission was made without out-of-fold predictions."]
    training = facts["training"]
    rows = [["slices", "all", *LABELS]]
    rows.append(["", str(training["slices"]), *(f"{training['positive_slices'][label]:.0f}" for label in LABELS)])
    text = (
        f"{training['patients']} patients, {training['studies']} studies, in folds that never split a patient; each "
        "network was trained on all folds but its own."
    )
    return [text, tuple(rows)]


def _figures(facts: dict[str, Any]) -> _Blocks:
    losses = facts["out_of_fold_log_loss"]
    if losses is None:
        return ["None: the submission was made without out-of-fold predictions."]
    rows = [["log loss, by slice", "weighted", *LABELS]]
    rows += [[name, *(_cell(values[key], 4) for key in ("weighted", *LABELS))] for name, values in losses.items()]
    text = (
        f"{facts['levels']['slice']['cases']} slices of {facts['levels']['study']['cases']} studies and "
        f"{facts['patients']} patients, each predicted by the networks of the fold that did not see the patient."
    )
    aucs = [["AUC", *LABELS]]
    aucs += [
        [level, *(_cell(figures["auc"][label], 3) for label in LABELS)] for level, figures in facts["levels"].items()
    ]
    return [text, tuple(rows), tuple(aucs)]


def _operating_points(description: Description) -> _Blocks:
    if not description.operating_points:
        return ["None: they come from out-of-fold predictions."]
    rows = [["threshold", *LABELS]]
    for level, points in description.operating_points.items():
        rows += [
            [f"{level}, {POINT_TITLES[name]}", *(_cell(points[name][label], 4) for label in LABELS)]
            for name in OPERATING_POINTS
        ]
    text = (
        "A case is called positive where its probability is at least the threshold. Thresholds come from out-of-fold "
        "predictions, one network for each slice and member; the detector takes the mean over folds, which is milder."
    )
    return [text, tuple(rows)]


def _distance(description: Description) -> str:
    distance = description.distance
    if distance is None:
        return "Not known: no embeddings of the training set were kept, which a second stage makes."
    network = distance.network
    return (
        "The distance of a slice from the training set is that of Mahalanobis, of the embedding by "
        f"`{network.name}`, fold {network.fold}, epoch {network.epoch}. One of a hundred out-of-fold slices is farther "
        f"than {distance.slices:.2f}. A series of which more than {distance.series:.0%} are farther is unlike the "
        "training data, and gets a warning."
    )


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None or isnan(value) else f"{value:.{digits}f}"
