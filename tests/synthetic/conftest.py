"""A small generated competition of each difficulty, for the tests of its files and of its folder."""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest

from src.synthetic.make_competition import Summary, make_competition
from src.synthetic.plan import DIFFICULTIES, MIN_PATIENTS, MIN_SLICES


@dataclass(frozen=True)
class Competition:
    """A generated folder, with readers of its files."""

    folder: Path
    summary: Summary
    settings: dict[str, Any]

    def images(self, split: str) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.folder / f"stage_2_{split}").iterdir())}

    def labels(self, name: str) -> pd.DataFrame:
        """A row for each slice, a column for each label."""
        table = pd.read_csv(self.folder / f"stage_2_{name}.csv").drop_duplicates()
        parts = table["ID"].str.rsplit("_", n=1, expand=True)
        return table.assign(slice=parts[0], label=parts[1]).pivot(index="slice", columns="label", values="Label")

    def whole(self, split: str) -> dict[str, pydicom.Dataset]:
        """The data sets of all files that are not truncated."""
        broken = self.summary.oddities["truncated file"]
        return {name: self.read(path) for name, path in self.images(split).items() if name not in broken}

    def series(self, split: str) -> dict[str, list[pydicom.Dataset]]:
        """The slices of each series from the lowest to the highest, those of truncated files left out."""
        found = defaultdict(list)
        for dataset in self.whole(split).values():
            found[str(dataset.SeriesInstanceUID)].append(dataset)
        return {name: sorted(one, key=lambda d: d.ImagePositionPatient[2]) for name, one in found.items()}

    @staticmethod
    def read(path: Path, **how: bool) -> pydicom.Dataset:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Invalid value for VR UI")  # `ID_...` is not a valid UID
            dataset = pydicom.dcmread(path, **how)
            str(dataset)  # pydicom converts, and warns, when an element is first used
        return dataset


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    return {"patients": MIN_PATIENTS, "slices": MIN_SLICES, "size": 64, "difficulty": "easy", "seed": 3}


@pytest.fixture(scope="session", params=DIFFICULTIES)
def competition(
    request: pytest.FixtureRequest, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Competition:
    folder = tmp_path_factory.mktemp("synthetic") / "input"
    chosen = {**settings, "difficulty": request.param}
    return Competition(folder, make_competition(folder, **chosen), chosen)
