"""Prediction with many checkpoints, start-up included: one process for all of them, against a process for each.

    python -m benchmarks.predict --head-ct FOLDER

FOLDER: the DICOM files of one head CT, copied to some hundred slices; without it, a generated one. On a CUDA device at
full size (512 px); without one at the size of the demo.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.head_ct import add_head_ct, copy_head_ct, find_head_ct
from benchmarks.measure import machine, table, take_turns
from src.classify.checkpoint import ClassifierMetadata
from src.classify.network import build_network
from src.config import Config, load_config
from src.files.layout import Layout
from src.files.tables import write_table
from src.preprocess.create_dataset import create_dataset
from src.train.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).parents[1]
EPOCHS = (2, 3)


def make_checkpoints(config: Config, folds: Sequence[int], layout: Layout) -> None:
    """Write random weights for each fold and epoch."""
    network = build_network(config, pretrained="none")
    for fold in folds:
        for epoch in EPOCHS:
            metadata = ClassifierMetadata.of(config, fold, epoch, data_fingerprint="none")
            save_checkpoint(layout.fold(config.name, fold).checkpoint(epoch), network, metadata)


def predict_anew(
    layout: Layout, config: Config, settings: Sequence[str], runs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> str:
    """Delete all predictions, then predict the test set in a process for each (folds, epochs): what they print."""
    for path in layout.root.glob("model/*/fold*/*.parquet"):
        path.unlink()
    printed = ""
    for folds, epochs in runs:
        what = [f"conf/{config.name}.yaml", "--split", "test", "--root", str(layout.root), "--set", *settings]
        numbers = ["--fold", *map(str, folds), "--epochs", *map(str, epochs)]
        command = [sys.executable, "-m", "src.classify.predict", *what, *numbers]
        printed += subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    return printed


def compare(
    layout: Layout, config: Config, settings: Sequence[str], folds: Sequence[int], rounds: int
) -> tuple[float, float, int]:
    """(seconds of one process for all checkpoints, seconds of one for each, percent spent waiting for data)."""
    printed: list[str] = []

    def together() -> None:
        printed.append(predict_anew(layout, config, settings, [(folds, EPOCHS)]))

    def one_by_one() -> None:
        predict_anew(layout, config, settings, [([fold], [epoch]) for fold in folds for epoch in EPOCHS])

    seconds = take_turns({"together": together, "one by one": one_by_one}, rounds)
    waiting = sorted(int(re.findall(r"(\d+)% of the time", each)[-1]) for each in printed)[len(printed) // 2]
    return seconds["together"], seconds["one by one"], waiting


def main() -> None:
    """Read arguments, measure, print tables."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    add_head_ct(parser)
    parser.add_argument("--confs", nargs="+", default=["se_resnext50_32x4d", "efficientnet-b2"], help="of conf/")
    parser.add_argument("--slices", type=int, default=2800 if gpu else 112, help="test slices (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=512 if gpu else 64, help="in pixels (default %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="folds, two checkpoints each (default %(default)s)")
    parser.add_argument("--workers", type=int, default=4 if gpu else 1, help="of the loader (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the comparison (default %(default)s)")
    args = parser.parse_args()
    print(f"{machine()}, {torch.cuda.get_device_name() if gpu else 'no GPU'}, torch {torch.__version__}")

    settings = [f"image_size={args.image_size}", f"workers={args.workers}"]
    folds, rows = range(args.folds), []
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        images = layout.root / "images"
        images.mkdir()
        copies = copy_head_ct(find_head_ct(args.head_ct, layout.root), images, args.slices)
        write_table(copies, layout.table("test"))
        create_dataset(copies, layout.store("test"), engine="serial")
        for name in args.confs:
            config = load_config(REPOSITORY / f"conf/{name}.yaml", settings)
            make_checkpoints(config, folds, layout)
            once, often, waiting = compare(layout, config, settings, folds, args.rounds)
            rows.append((name, len(copies) / once, len(copies) / often, often / once, f"{waiting} %"))
    networks = len(folds) * len(EPOCHS)
    columns = (
        "network",
        "one process for all, slices/s",
        "a process for each, slices/s",
        "times as fast",
        "waiting for data",
    )
    table(f"{len(copies)} slices of {args.image_size} px by {networks} checkpoints in two views", columns, rows)


if __name__ == "__main__":
    main()
