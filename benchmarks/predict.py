"""Prediction with many checkpoints, start-up included: one pass for all of them, against a process for each.

    python -m benchmarks.predict --head-ct FOLDER

FOLDER: the DICOM files of one head CT, copied to some hundred slices; without it, a generated one. On a CUDA device at
full size (512 px); without one at the size of the demo.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import machine, table, take_turns
from benchmarks.preprocess import copy_head_ct, generated_head_ct
from src.classify.checkpoint import About, save_checkpoint
from src.classify.network import build_network
from src.config import Config, load_config
from src.files.layout import Layout
from src.files.tables import write_table
from src.preprocess.create_dataset import create_dataset

REPOSITORY = Path(__file__).parents[1]
EPOCHS = (2, 3)


def make_checkpoints(config: Config, folds: range, layout: Layout) -> None:
    """Weights at random, for each fold and epoch."""
    network = build_network(config, pretrained="none")
    for fold in folds:
        for epoch in EPOCHS:
            about = About.of(config, fold, epoch, trained_on="nothing")
            save_checkpoint(layout.fold(config.name, fold).checkpoint(epoch), network, about)


def predict_anew(layout: Layout, config: Config, settings: list[str], runs: list[tuple[range, tuple[int, ...]]]) -> str:
    """Predict the test set in a process per (folds, epochs), after deleting what is there; what was said."""
    for path in layout.root.glob("model/*/fold*/*.parquet"):
        path.unlink()
    said = ""
    for folds, epochs in runs:
        what = [f"conf/{config.name}.yaml", "--split", "test", "--root", str(layout.root), "--set", *settings]
        numbers = ["--fold", *map(str, folds), "--epochs", *map(str, epochs)]
        command = [sys.executable, "-m", "src.classify.predict", *what, *numbers]
        said += subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    return said


def main() -> None:
    """Read arguments, measure, print tables."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--head-ct", type=Path, help="folder of one head CT's DICOM files")
    parser.add_argument("--confs", nargs="+", default=["se_resnext50_32x4d", "efficientnet-b2"], help="of conf/")
    parser.add_argument("--slices", type=int, default=2800 if gpu else 112, help="test slices (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=512 if gpu else 64, help="pixels (default %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="folds, two checkpoints each (default %(default)s)")
    parser.add_argument("--workers", type=int, default=4 if gpu else 1, help="that load (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="that count (default %(default)s)")
    args = parser.parse_args()
    print(f"{machine()}, {torch.cuda.get_device_name() if gpu else 'no GPU'}, torch {torch.__version__}")

    settings = [f"image_size={args.image_size}", f"workers={args.workers}"]
    folds, rows = range(args.folds), []
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        head_ct = sorted(args.head_ct.glob("*.dcm")) if args.head_ct else generated_head_ct(layout.root / "generated")
        images = layout.root / "images"
        images.mkdir()
        copies = copy_head_ct(head_ct, images, args.slices)
        write_table(copies, layout.table("test"))
        create_dataset(copies, layout.store("test"), engine="serial")
        for name in args.confs:
            config = load_config(REPOSITORY / f"conf/{name}.yaml", settings)
            make_checkpoints(config, folds, layout)
            said: list[str] = []
            predict_with = partial(predict_anew, layout, config, settings)

            def together(run=predict_with, said=said) -> None:  # type: ignore[no-untyped-def]
                said.append(run([(folds, EPOCHS)]))

            def one_by_one(run=predict_with) -> None:  # type: ignore[no-untyped-def]
                run([(range(fold, fold + 1), (epoch,)) for fold in folds for epoch in EPOCHS])

            seconds = take_turns({"together": together, "one by one": one_by_one}, args.rounds)
            waiting = sorted(int(re.findall(r"(\d+)% of the time", each)[-1]) for each in said)[len(said) // 2]
            once, often = seconds["together"], seconds["one by one"]
            rows.append((name, len(copies) / once, len(copies) / often, often / once, f"{waiting} %"))
    networks = len(folds) * len(EPOCHS)
    columns = ("network", "one pass, slices/s", "a process each, slices/s", "times as fast", "waiting for data")
    table(f"{len(copies)} slices of {args.image_size} px by {networks} checkpoints in two views", columns, rows)


if __name__ == "__main__":
    main()
