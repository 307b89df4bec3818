"""Preprocessing, measured: DICOM to image store against the usual way, reading it back, tables at full size.

    python -m benchmarks.preprocess --head-ct FOLDER

FOLDER: the DICOM files of one head CT, which is copied to a few thousand slices; without it, a generated one. Warm
cache, one process.
"""

import argparse
import os
import shutil
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import blosc2
import cv2
import numpy as np
import pandas as pd
import pydicom

from benchmarks.measure import alone, machine, table, take_turns
from src.ct.hounsfield import STORED_RANGE
from src.ct.windows import THREE_WINDOWS
from src.files.archive import find_members
from src.files.images import ImageStore
from src.files.label_csv import pivot_labels
from src.files.sources import find_slices
from src.labels import LABELS, row_ids
from src.preprocess.create_dataset import create_dataset
from src.preprocess.dicom_to_dataframe import place_slices, read_headers
from src.preprocess.engine import run_tasks
from src.preprocess.make_folds import make_folds
from src.sample.make_competition import make_competition

SLICES, SERIES, PATIENTS, TRAIN_SLICES = 874_035, 25_262, 18_938, 752_803  # the competition's
PREVALENCE = {
    "epidural": 0.0041,
    "intraparenchymal": 0.0483,
    "intraventricular": 0.0352,
    "subarachnoid": 0.0476,
    "subdural": 0.0630,
}  # stage 1


# ---- one head CT, many times


def generated_head_ct(folder: Path) -> list[Path]:
    """The slices of one generated head CT, of the size and encoding of a usual one."""
    make_competition(folder, patients=8, slices=5, size=512, difficulty="easy", seed=0)
    paths = [path for path in sorted((folder / "stage_2_train").glob("*.dcm")) if path.stat().st_size > 512 * 512 * 2]
    table = read_headers([path.stem for path in paths], [str(path) for path in paths])
    usual = table[(table["columns"] == 512) & (table["rows"] == 512) & (table["bits_stored"] == 16)]
    return [Path(path) for path in usual.loc[usual["SeriesInstanceUID"] == usual["SeriesInstanceUID"].iloc[0], "path"]]


def copy_head_ct(originals: list[Path], folder: Path, slices: int) -> pd.DataFrame:
    """Copy a head CT until there are some `slices`: the table of the copies, each a series."""
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


# ---- rivals


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
        pixels = [np.frombuffer(Path(path).read_bytes()[-524288:], "<i2").clip(*STORED_RANGE) for path in series]
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
    store.hounsfield(ids[0])  # what it knows of where slices are is made once
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


# ---- at the competition's full size


def full_size(work: Path) -> None:
    """Label CSV, folds and Kaggle's directory at full size, each in a process of its own."""
    csv, archive = work / "labels.csv", work / "directory.zip"
    write_labels(csv)
    write_directory(archive)
    rows = []
    seconds, megabytes, found = alone(_pivot, csv)
    rows.append((f"label CSV of {found} rows to a table", seconds, megabytes, ""))
    seconds, megabytes, (inside, worst) = alone(_folds)
    rows.append(
        (f"make_folds, {TRAIN_SLICES} slices of {PATIENTS} patients", inside, megabytes, f"worst deviation {worst:.2%}")
    )
    seconds, megabytes, found = alone(_directory, archive)
    rows.append((f"finding {found} slices in a zip's directory", seconds, megabytes, ""))
    table("At full size", ("what", "seconds", "peak MB", ""), rows)


def _slice_ids(count: int) -> list[str]:
    numbers = np.random.default_rng(0).choice(16**9, count, replace=False)
    return [f"ID_{number:09x}" for number in numbers]


def write_labels(csv: Path) -> None:
    """A label CSV of the competition's size, with its 24 repeated rows."""
    ids = row_ids(pd.Series(_slice_ids(TRAIN_SLICES)))
    labels = (np.random.default_rng(1).random(len(ids)) < 0.06).astype(int)
    rows = pd.DataFrame({"ID": ids, "Label": labels})
    pd.concat([rows, rows.iloc[:24]]).to_csv(csv, index=False)


def write_directory(archive: Path) -> None:
    """A zip with as many members as Kaggle's, all empty."""
    with zipfile.ZipFile(archive, "w") as file:
        for slice_id in _slice_ids(SLICES):
            file.writestr(f"rsna-intracranial-hemorrhage-detection/stage_2_train/{slice_id}.dcm", b"")


def _pivot(csv: Path) -> int:
    found, repeated = pivot_labels(csv, test=False)
    return len(found) * len(LABELS) + repeated


def _directory(archive: Path) -> int:
    return sum(member is not None for member in find_members(archive, [f"{each}.dcm" for each in _slice_ids(SLICES)]))


def _folds() -> tuple[float, float]:
    slices = simulated_slices()
    begun = time.perf_counter()
    folds = make_folds(slices)
    seconds = time.perf_counter() - begun
    counts = slices[list(LABELS)].groupby(folds["fold"]).sum()
    return seconds, float((counts / counts.mean() - 1).abs().to_numpy().max())


def simulated_slices() -> pd.DataFrame:
    """Slices of the competition's number, patients and prevalence; a bleed is a run of neighbouring slices."""
    rng = np.random.default_rng(0)
    studies = 21_744
    patients = np.concatenate([np.arange(PATIENTS), rng.integers(0, PATIENTS, studies - PATIENTS)])
    lengths = np.maximum(20, rng.normal(TRAIN_SLICES / studies, 5, studies).astype(int))
    lengths[: abs(TRAIN_SLICES - lengths.sum())] += np.sign(TRAIN_SLICES - lengths.sum())
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    labels = np.zeros((lengths.sum(), len(LABELS)), dtype=np.uint8)
    for name, share in PREVALENCE.items():
        column, wanted = LABELS.index(name), share * len(labels)
        for study in rng.permutation(studies):
            run = min(lengths[study], 1 + rng.poisson(8))
            first = starts[study] + rng.integers(0, lengths[study] - run + 1)
            labels[first : first + run, column] = 1
            wanted -= run
            if wanted <= 0:
                break
    labels[:, 0] = labels[:, 1:].any(axis=1)
    study = np.repeat(np.arange(studies), lengths)
    hashes = np.arange(len(labels))
    hashes[rng.choice(len(labels), 4073, replace=False)] = rng.choice(len(labels), 4073)  # identical images
    return pd.DataFrame(
        {
            "ID": [f"ID_{i:09x}" for i in range(len(labels))],
            "PatientID": np.array([f"ID_{i:08x}" for i in range(PATIENTS)], dtype=object)[patients[study]],
            "pixel_hash": [f"{each:032x}" for each in hashes],
            "brain_share": rng.uniform(0, 0.4, len(labels)),
            **{name: labels[:, i] for i, name in enumerate(LABELS)},
        }
    )


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__.split("\n")[0])
    parser.add_argument("--head-ct", type=Path, help="folder of one head CT's DICOM files (default: a generated one)")
    parser.add_argument("--slices", type=int, default=2800, help="copy it to so many slices (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison (default %(default)s)")
    parser.add_argument("--no-full-size", action="store_true", help="leave out what takes minutes")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, of ids that are no UIDs
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "images").mkdir()
        head_ct = sorted(args.head_ct.glob("*.dcm")) if args.head_ct else generated_head_ct(work / "generated")
        copies = copy_head_ct(head_ct, work / "images", args.slices)
        kind = args.head_ct.name if args.head_ct else "a generated head CT"
        print(f"{machine()}; {len(copies)} slices of {kind}, {args.rounds} rounds, medians")
        storing(copies, work, args.rounds)
        reading(copies, work, args.rounds)
        headers(copies, work, args.rounds)
        memory(copies, work)
        all_cores(copies, work)
        if not args.no_full_size:
            full_size(work)


if __name__ == "__main__":
    main()
