"""Preprocessing, measured: DICOM to image store against the usual way, reading it back, tables at full size.

    python -m benchmarks.preprocess --head-ct FOLDER

FOLDER: the DICOM files of one head CT, which is copied to a few thousand slices; without it, a generated one. Warm
cache, one process.
"""

import argparse
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import blosc2
import cv2
import numpy as np
import pandas as pd
import pydicom

from benchmarks.competition import SLICES
from benchmarks.head_ct import add_head_ct, as_table, copy_head_ct, find_head_ct, head_ct_name
from benchmarks.measure import alone, machine, table, take_turns
from benchmarks.preprocess_scale import full_size
from src.ct.hounsfield import HU_RANGE
from src.ct.windows import THREE_WINDOWS
from src.files.image_store import ImageStore
from src.preprocess.create_dataset import create_dataset
from src.preprocess.dicom_to_dataframe import read_headers
from src.preprocess.engine import run_tasks

# ---- candidates


def usual_way(paths: list[str], folder: Path) -> None:
    """What a notebook does: pixel_array, float windows, a three-channel PNG."""
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        hu = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        channels = [np.clip((hu - (level - width / 2)) / width, 0, 1) for level, width in THREE_WINDOWS]
        cv2.imwrite(str(folder / f"{number}.png"), (np.stack(channels, axis=-1) * 255).astype(np.uint8))


def floor(paths: list[str], folder: Path, n_slices: int) -> None:
    """The least that any way must do: read the bytes, clip, compress into the same container, write."""
    for start in range(0, len(paths), n_slices):
        series = paths[start : start + n_slices]
        pixels = [np.frombuffer(Path(path).read_bytes()[-524288:], "<i2").clip(*HU_RANGE) for path in series]
        blosc2.asarray(
            np.stack(pixels).reshape(-1, 512, 512),
            urlpath=str(folder / f"{start}.b2nd"),
            mode="w",
            chunks=(1, 512, 512),
            blocks=(1, 64, 512),
            cparams=blosc2.CParams(
                codec=blosc2.Codec.ZSTD,
                clevel=1,
                filters=[blosc2.Filter.SHUFFLE],
                splitmode=blosc2.SplitMode.ALWAYS_SPLIT,
                nthreads=1,
            ),
        )


def plain_headers(paths: list[str]) -> None:
    """pydicom's own header read."""
    for path in paths:
        pydicom.dcmread(path, stop_before_pixels=True)


# ---- measurements


def storing(copies: pd.DataFrame, work: Path, rounds: int) -> None:
    """create_dataset against the usual way and the floor."""
    some = copies.iloc[: 10 * int(copies["n_slices"].iloc[0])]
    paths, archive = some["path"].tolist(), work / "kaggle.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            file.write(path, f"rsna/stage_2_train/{Path(path).name}")
    from_zip = as_table(archive, some["ID"].tolist(), some["SeriesInstanceUID"].tolist())

    def into(name: str, run: Callable[[Path], object]) -> Callable[[], None]:
        def fresh() -> None:
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir()
            run(work / name)

        return fresh

    seconds = take_turns(
        {
            "usual way: three windows as PNG": into("png", lambda folder: usual_way(paths, folder)),
            "floor: read, clip, compress, write": into(
                "floor", lambda folder: floor(paths, folder, int(some["n_slices"].iloc[0]))
            ),
            "create_dataset": into("store", lambda folder: create_dataset(some, folder, engine="serial")),
            "create_dataset, from Kaggle's zip": into(
                "zip", lambda folder: create_dataset(from_zip, folder, engine="serial")
            ),
            "create_dataset, everything there": lambda: create_dataset(some, work / "store", engine="serial"),
        },
        rounds,
    )
    usual, least = (seconds[name] for name in list(seconds)[:2])
    table(
        f"Storing {len(some)} slices of 512 x 512, one process",
        ("what", "ms a slice", "times as fast as usual", "times the floor"),
        [(name, 1000 * each / len(some), usual / each, each / least) for name, each in seconds.items()],
    )


def reading(copies: pd.DataFrame, work: Path, rounds: int) -> None:
    """Size of the store, and what reading it costs."""
    store = ImageStore(work / "store")
    ids = np.random.default_rng(0).permutation(store.index["ID"].to_numpy())[:200].tolist()
    series = store.index.loc[store.index["file"] == store.index["file"].iloc[0], "ID"].tolist()
    pictures = sorted((work / "png").glob("*.png"))
    store.hounsfield(ids[0])  # its lookup of slices by ID is made once
    seconds = take_turns(
        {
            "a random slice, file opening included": lambda: [store.hounsfield(each) for each in ids],
            "a slice of a whole series, each opened anew": lambda: [store.hounsfield(each) for each in series],
            "a slice of a whole series, opened once": lambda: blosc2.open(
                str(work / "store" / store.index["file"].iloc[0]), mode="r", dparams=blosc2.DParams(nthreads=1)
            )[:],
            "a PNG of the three windows": lambda: [cv2.imread(str(path)) for path in pictures[:200]],
        },
        rounds,
    )
    counts = (len(ids), len(series), len(series), min(200, len(pictures)))
    table(
        "Reading",
        ("what", "ms a slice"),
        [(name, 1000 * each / count) for (name, each), count in zip(seconds.items(), counts, strict=True)],
    )
    sizes = {name: [path.stat().st_size for path in (work / name).glob(f"*.{end}")] for name, end in
             (("store", "b2nd"), ("png", "png"))}  # fmt: skip
    table(
        "Size",
        ("what", "KiB a slice"),
        [
            ("image store", sum(sizes["store"]) / len(store.index) / 1024),
            ("three windows as PNG", sum(sizes["png"]) / len(pictures) / 1024),
        ],
    )


def headers(copies: pd.DataFrame, work: Path, rounds: int) -> None:
    """dicom_to_dataframe's reading of headers against pydicom's."""
    some = copies.iloc[:512]
    ids, paths = some["ID"].tolist(), some["path"].tolist()
    seconds = take_turns(
        {
            "pydicom.dcmread(stop_before_pixels=True)": lambda: plain_headers(paths),
            "read_headers: header, geometry, table": lambda: read_headers(ids, paths),
        },
        rounds,
    )
    plain = seconds["pydicom.dcmread(stop_before_pixels=True)"]
    table(
        "Headers",
        ("what", "ms a slice", "times pydicom's"),
        [(name, 1000 * each / len(ids), each / plain) for name, each in seconds.items()],
    )


def memory(copies: pd.DataFrame, work: Path) -> None:
    """Peak memory of a worker as the number of slices grows, and of one long series."""
    rows = []
    for count in (len(copies) // 4, len(copies)):
        _, megabytes, _ = alone(_store_alone, copies.iloc[:count], work / "memory")
        rows.append((f"{count} slices", megabytes))
    one = copies.assign(SeriesInstanceUID="ID_one", z_index=range(len(copies)))
    _, megabytes, _ = alone(_store_alone, one, work / "memory")
    rows.append((f"one series of {len(one)} slices", megabytes))
    table("Memory of create_dataset, serial, all imports included", ("what", "peak MB"), rows)


def _store_alone(copies: pd.DataFrame, folder: Path) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    return len(create_dataset(copies, folder, engine="serial")[0])


def all_cores(copies: pd.DataFrame, work: Path) -> None:
    """Both steps on all cores: what the competition would take."""
    ids = copies["ID"].tolist()
    jobs = os.cpu_count() or 1
    tasks = [(ids[i : i + 256], copies["path"].tolist()[i : i + 256]) for i in range(0, len(ids), 256)]

    def read_all() -> None:
        list(run_tasks(read_headers, tasks, desc="", total=len(ids), size=len, engine="loky", jobs=jobs))

    def store_all() -> None:
        shutil.rmtree(work / "cores", ignore_errors=True)
        create_dataset(copies, work / "cores", engine="loky", jobs=jobs)

    seconds = take_turns({"headers": read_all, "create_dataset": store_all}, rounds=3)
    table(
        f"{len(ids)} slices on {jobs} cores, loky",
        ("what", "slices a second", f"minutes for {SLICES}"),
        [(name, len(ids) / each, SLICES / len(ids) * each / 60) for name, each in seconds.items()],
    )


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__.split("\n")[0])
    add_head_ct(parser)
    parser.add_argument("--slices", type=int, default=2800, help="copy it to so many slices (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison (default %(default)s)")
    parser.add_argument("--no-full-size", action="store_true", help="leave out what takes minutes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, of ids that are no UIDs
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "images").mkdir()
        copies = copy_head_ct(find_head_ct(args.head_ct, work), work / "images", args.slices)
        print(f"{machine()}; {len(copies)} slices of {head_ct_name(args.head_ct)}, {args.rounds} rounds, medians")
        storing(copies, work, args.rounds)
        reading(copies, work, args.rounds)
        headers(copies, work, args.rounds)
        memory(copies, work)
        all_cores(copies, work)
        if not args.no_full_size:
            full_size(work)


if __name__ == "__main__":
    main()
