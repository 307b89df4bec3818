"""The model card, the same as the detector's, and which items of the two reporting guidelines this report gives."""

import logging
import re
from pathlib import Path

import pandas as pd

from src.detector.card import card_sections
from src.detector.collect import describe
from src.errors import UserError
from src.report.blocks import Column, Missing, Section, Table, Words
from src.report.sources import Sources
from src.report.subgroups import subgroups

_log = logging.getLogger(__name__)

_GUIDELINES = Path(__file__).parents[2] / "docs" / "validation.md"  # which has the items, for a validation elsewhere
_NAMES = {"CLAIM": "CLAIM, 2024 update", "TRIPOD+AI": "TRIPOD+AI, 2024"}
_NONE = "to be written by the authors"
# the sections of this report that give an item
_HERE = {
    "CLAIM": {
        "7": "data",
        "8": "data",
        "9": "data",
        "12": "data",
        "19": "data",
        "20": "data",
        "22": "card",
        "23": "headline",
        "25": "training",
        "27": "card",
        "28": "discrimination, calibration",
        "29": "all intervals",
        "30": "errors",
        "31": "errors",
        "32": "discrimination",
        "35": "data",
        "37": "discrimination",
        "38": "discrimination",
        "39": "errors",
        "40": "card",
        "43": "card",
    },
    "TRIPOD+AI": {
        "5a, b": "data",
        "7": "data",
        "9a-c": "card",
        "11": "data",
        "12a": "data",
        "12b, c": "card",
        "12d": "errors",
        "12e": "discrimination, calibration",
        "12f": "calibration",
        "13": "data",
        "15": "discrimination",
        "20a-c": "data",
        "21": "discrimination",
        "22": "card",
        "23a, b": "discrimination, errors",
        "25, 26": "card",
    },
}


def card(sources: Sources) -> Section:
    """The section."""
    section = Section("card", "Model card", "The same text as in the exported detector. Not for clinical use.")
    if sources.manifest is None:
        section.blocks.append(
            Missing("No submission has been made yet, so there is no detector to speak of.", "ensemble")
        )
    else:
        try:
            description = describe(sources.manifest_file, sources.layout)
        except UserError as error:
            _log.warning("no model card: %s", error)
            section.blocks.append(Missing(f"There is no model card: {error}.", error.step or "ensemble"))
        else:
            for number, part in enumerate(card_sections(description)):
                section.blocks += _blocks(number, part.title, part.blocks)
    if sources.scored is not None:
        section.blocks.append(subgroups(sources, sources.scored))
    section.blocks += guidelines(_GUIDELINES)
    return section


def _blocks(number: int, title: str, blocks: list[str | list[str] | tuple[list[str], ...]]) -> list[Words | Table]:
    """A section of the card as blocks: its tables by themselves, its words together."""
    found: list[Words | Table] = []
    for i, block in enumerate(blocks):
        heading = title if i == 0 else ""
        if isinstance(block, tuple):
            header, *rows = block
            names = [re.sub(r"\W+", "_", name).strip("_").lower() or "what" for name in header]
            frame = pd.DataFrame(rows, columns=names)
            columns = [Column(text, name) for text, name in zip(header, names, strict=True)]
            found.append(Table(f"card_{number}_{i}", heading, frame, columns))
        else:
            found.append(Words([block], heading))
    return found


def guidelines(path: Path) -> list[Table]:
    """The items of the two guidelines, read from the document that has them, and where this report gives them."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    tables = []
    for name, title in _NAMES.items():
        part = text.split(f"### {title}")[1].split("\n#")[0]
        rows = re.findall(r"^\| (\d[^|]*?) \| ([^|]*?) \|", part, flags=re.MULTILINE)
        frame = pd.DataFrame(rows, columns=["number", "item"], dtype=str)
        frame["here"] = frame["number"].map(_HERE[name]).fillna(_NONE)
        columns = [Column("No.", "number"), Column("Item, in short", "item"), Column("in this report", "here")]
        note = (
            "The wording of the original counts. docs/validation.md has its source, and the items for a validation "
            "elsewhere."
        )
        key = re.sub(r"\W+", "_", name).lower()
        tables.append(Table(f"guideline_{key}", f"Reporting: {title}", frame, columns, note, folded=True))
    return tables
