"""How the report calls things."""

from src.pages.series import LABEL_NAMES

LABEL_TITLES = LABEL_NAMES
LEVEL_TITLES = {"slice": "by slice", "study": "by study"}
SPLIT_TITLES = {"train": "training", "test": "test"}
