"""One head CT, given or generated, copied to as many slices as a benchmark needs."""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from src.dicom.sources import find_slices
from src.preprocess.dicom_to_dataframe import place_slices, read_headers
from src.synthetic.make_competition import make_competition


def add_head_ct(parser: argparse.ArgumentParser) -> None:
    """Add `--head-ct`."""
    parser.add_argument("--head-ct", type=Path, help="folder of one head CT's DICOM files (default: a generated one)")


def find_head_ct(given: Path | None, work: Path) -> list[Path]:
    """The slices of the head CT in a given folder, or of one generated below `work`."""
    return generated_head_ct(work / "generated") if given is None else sorted(given.glob("*.dcm"))


def head_ct_name(given: Path | None) -> str:
    """What a benchmark calls it."""
    return "a generated head CT" if given is None else given.name


def generated_head_ct(folder: Path) -> list[Path]:
    """The slices of one generated head CT, of the usual size and encoding."""
    make_competition(folder, patients=8, slices=5, size=512, difficulty="easy", seed=0)
    paths = [path for path in sorted((folder / "stage_2_train").glob("*.dcm")) if path.stat().st_size > 512 * 512 * 2]
    table = read_headers([path.stem for path in paths], [str(path) for path in paths])
    usual = table[(table["columns"] == 512) & (table["rows"] == 512) & (table["bits_stored"] == 16)]
    return [Path(path) for path in usual.loc[usual["SeriesInstanceUID"] == usual["SeriesInstanceUID"].iloc[0], "path"]]


def copy_head_ct(originals: list[Path], folder: Path, slices: int) -> pd.DataFrame:
    """Copy a head CT until there are at least `slices`: the table of the copies, each a series."""
    ids, series = [], []
    for number in range(-(-slices // len(originals))):
        for i, path in enumerate(originals):
            ids.append(f"ID_{number:06x}{i:03x}")
            series.append(f"ID_{number:06x}")
            shutil.copyfile(path, folder / f"{ids[-1]}.dcm")
    return as_table(folder, ids, series)


def as_table(images: Path, ids: list[str], series: list[str]) -> pd.DataFrame:
    """The table of slices in a folder or an archive."""
    headers = read_headers(ids, find_slices(images, ids))
    return place_slices(headers.assign(SeriesInstanceUID=series))
