"""Training, measured: against a bare PyTorch loop, and the effect of the network's settings.

    python -m benchmarks.train --head-ct FOLDER

On a CUDA device at full size (512 px, the confs' batches); without one the same measurements on a CPU, smaller. FOLDER:
the DICOM files of one head CT, for loading; without it, a generated one.
"""

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.head_ct import add_head_ct, copy_head_ct, find_head_ct
from benchmarks.loader import training_slices
from benchmarks.measure import alone, machine, table, take_turns
from benchmarks.train_steps import Steps, has_gpu, make_batches, synchronised
from src.classify.network import build_network
from src.config import Config, load_config
from src.files.image_store import ImageStore
from src.labels import WEIGHTS
from src.preprocess.create_dataset import create_dataset
from src.train.loader import EpochSampler, make_loader
from src.train.loss import weighted_bce
from src.train.optim import make_optimizer
from src.train.state import Position
from src.train.tensorboard import TensorBoard

CONFS = Path(__file__).parents[1] / "conf"
# each of the project's networks, and timm's network of the same architecture
NETWORKS = {
    "se_resnext50_32x4d": "timm/legacy_seresnext50_32x4d",
    "efficientnet-b2": "timm/tf_efficientnet_b2",
}
SETTINGS = {
    "fp32": ["precision=none", "channels_last=false"],
    "fp32, channels-last": ["precision=none"],
    "fp16": ["precision=fp16", "channels_last=false"],
    "fp16, channels-last (default)": ["precision=fp16"],
    "bf16": ["precision=bf16", "channels_last=false"],
    "bf16, channels-last": ["precision=bf16"],
    "fp16, channels-last, torch.compile": ["precision=fp16", "compile=true"],
    "fp32, channels-last, torch.compile": ["precision=none", "compile=true"],
}


# ---- our loop against a bare one


def against_a_bare_loop(confs: list[Config], rounds: int, steps: int, work: Path) -> None:
    """train_epoch, with all that it does around a step, against the fewest lines that train the same network."""
    rows = []
    for config in confs:
        _, _, seconds = alone(_loops, config, rounds, steps, work)
        bare, ours = seconds["bare"], seconds["train_epoch"]
        images = config.batch_size * steps
        rows.append((config.name, config.image_size, config.batch_size, images / bare, images / ours, ours / bare))
    columns = ("network", "px", "batch", "bare loop, images/s", "train_epoch, images/s", "time, ours to bare")
    table("Our loop against a bare PyTorch loop, precision none", columns, rows)


def _loops(config: Config, rounds: int, steps: int, work: Path) -> dict[str, float]:
    config = config.model_copy(update={"precision": "none"})
    batches, ours = make_batches(config, steps), Steps(config)
    device = ours.accelerator.device
    bare = build_network(config, pretrained="none").to(device).train()
    optimizer = make_optimizer(config.optimizer, bare)
    weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=device)

    def run_bare() -> None:
        for batch in batches:
            loss = weighted_bce(bare(batch["image"], batch["jitter"]), batch["target"], weights)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        synchronised()

    def run_ours() -> None:
        position = Position()
        with TensorBoard(work / "curves", 0) as curves:

            def after_step(loss: float, stopping: bool) -> None:
                curves.add({"step/loss": loss}, position.step)

            ours.train(batches, position, after_step=after_step)
        synchronised()

    return take_turns({"bare": run_bare, "train_epoch": run_ours}, rounds)


# ---- the effect of each setting


def settings(confs: list[Config], steps: int, names: list[str]) -> None:
    """Images per second, peak memory and the fraction of the measured matrix-product rate, for each setting."""
    default = next((name for name in names if "default" in name), "fp32, channels-last")
    rows = []
    for config in confs:
        variants = {name: _changed(config, SETTINGS[name]) for name in names}
        twin = [*SETTINGS[default], f"network.architecture={NETWORKS[config.name]}"]
        variants[f"timm's twin, {default}"] = _changed(config, twin)
        for name, variant in variants.items():
            try:
                _, _, found = alone(_throughput, variant, steps)
            except RuntimeError as error:  # that a setting does not fit or compile here is a result too
                rows.append((config.name, name, str(error).splitlines()[0][:60], "", ""))
                continue
            fraction = found["flops"] * found["images_per_second"] / found["matrix_flops"]
            rows.append((config.name, name, found["images_per_second"], found["peak_mb"] or "-", f"{fraction:.0%}"))
    columns = ("network", "setting", "images/s", "peak MB of the GPU", "fraction of the matrix-product rate")
    table(
        f"Settings, {confs[0].image_size} px, batches of {' and '.join(str(c.batch_size) for c in confs)}",
        columns,
        rows,
    )


def _changed(config: Config, overrides: list[str]) -> Config:
    sizes = [f"image_size={config.image_size}", f"batch_size={config.batch_size}"]
    return load_config(CONFS / f"{config.name}.yaml", [*sizes, *overrides])


def _throughput(config: Config, steps: int) -> dict[str, float]:
    training, batches = Steps(config), make_batches(config, 2)
    training.train(batches)  # what is chosen or compiled once is not measured
    if has_gpu():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        started = synchronised()
        training.train(batches)
        seconds.append((synchronised() - started) / len(batches))
    return {
        "images_per_second": config.batch_size / statistics.median(seconds),
        "peak_mb": torch.cuda.max_memory_allocated() // 2**20 if has_gpu() else 0,
        "flops": flops(config),
        "matrix_flops": matrix_product_rate(config.precision),
    }


def flops(config: Config) -> float:
    """Floating-point operations of one image in training; a multiplication and its addition are two.

    Three times those of the forward pass, as is usual: the counter is wrong for the backward pass of grouped
    convolutions, which both networks have.
    """
    network = build_network(config, pretrained="none").eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.rand(1, 2 * config.neighbours + 1, config.image_size, config.image_size))
    return 3 * counter.get_total_flops()


def matrix_product_rate(precision: str) -> float:
    """Floating-point operations per second of a large matrix product, in the type that convolutions take."""
    halves = {"fp16": torch.float16 if has_gpu() else torch.float32, "bf16": torch.bfloat16, "none": torch.float32}
    side, device = (8192, "cuda") if has_gpu() else (2048, "cpu")
    one = torch.rand(side, side, device=device).to(halves[precision])
    seconds = []
    for _ in range(12):
        started = synchronised()
        one @ one
        seconds.append(synchronised() - started)
    return 2 * side**3 / statistics.median(seconds[2:])


def where_the_time_goes(config: Config) -> None:
    """The operations that take most of a step."""
    training, batches = Steps(config), make_batches(config, 3)
    training.train(batches)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_gpu() else [])]
    with profile(activities=activities) as found:
        training.train(batches)
        synchronised()
    own = "self_device_time_total" if has_gpu() else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, own))
    times = [getattr(event, own) for event in events]
    rows = [
        (event.key[:70], f"{mine / sum(times):.1%}", event.count // len(batches))
        for event, mine in zip(events[:12], times[:12], strict=True)
    ]
    table(f"{config.name}: where a step's time goes, conf's settings", ("operation", "fraction", "calls a step"), rows)


# ---- with real loading


def with_loading(confs: list[Config], work: Path, head_ct: list[Path], workers: int, batches: int) -> None:
    """Throughput with slices from the store against batches that are on the device already."""
    (work / "images").mkdir()
    copies = copy_head_ct(head_ct, work / "images", 112)
    create_dataset(copies, work / "store", engine="serial")
    rows = []
    for config in confs:
        _, _, (loaded, ready) = alone(_loaded, config, work, copies, workers, batches)
        rows.append((config.name, workers, ready, loaded, f"{loaded / ready:.1%}"))
    columns = ("network", "workers", "batches on the device, images/s", "loaded, images/s", "fraction")
    table("With real loading, the conf's augmentation and settings", columns, rows)


def _loaded(config: Config, work: Path, copies: Any, workers: int, count: int) -> tuple[float, float]:
    training, batches = Steps(config), make_batches(config, 2)
    dataset = training_slices(config, ImageStore(work / "store"), copies)
    sampler = _Endless(len(dataset), count * config.batch_size)
    loader = training.accelerator.prepare(
        make_loader(config.model_copy(update={"workers": workers}), dataset, sampler=sampler)
    )
    training.train(batches)
    seconds = []
    for source in (loader, _Repeated(batches, count)):
        stamps: list[float] = []
        training.train(_Stamped(source, stamps))
        end = synchronised()
        # the loader starts once in an epoch of tens of thousands of steps: its start is not measured
        seconds.append((end - stamps[2]) / (count - 2))
    loaded, ready = (config.batch_size / each for each in seconds)
    return loaded, ready


class _Repeated:
    """The same batches again and again."""

    def __init__(self, batches: list[Any], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[i % len(self.batches)] for i in range(self.count))


class _Stamped(_Repeated):
    """Note the time at which each batch is asked for."""

    def __init__(self, source: Any, stamps: list[float]) -> None:
        self.source, self.stamps, self.count = source, stamps, len(source)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.source:
            self.stamps.append(synchronised())
            yield batch


class _Endless(EpochSampler):
    """As many slices as are asked for, epoch after epoch."""

    def __init__(self, n_slices: int, count: int) -> None:
        super().__init__(n_slices, seed=0)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((1 + i // self.n_items, i % self.n_items) for i in range(self.count))


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.split("\n")[0])
    add_head_ct(parser)
    parser.add_argument("--image-size", type=int, help="in pixels (default 512, on a CPU 128)")
    parser.add_argument("--batch-size", type=int, help="of a step (default the conf's, on a CPU 8)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a round (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the loader (default %(default)s)")
    parser.add_argument("--confs", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: both)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: all that the device has")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    size = args.image_size or (512 if has_gpu() else 128)
    batch = args.batch_size or (None if has_gpu() else 8)
    sizes = [f"image_size={size}", *([f"batch_size={batch}"] if batch else [])]
    confs = [load_config(CONFS / f"{name}.yaml", sizes) for name in args.confs]
    device = torch.cuda.get_device_name() if has_gpu() else "no CUDA device, so no figures of a GPU"
    print(f"{machine()}, torch {torch.__version__}; {device}")
    names = args.settings or [name for name in SETTINGS if has_gpu() or "fp16" not in name]  # fp16 is fp32 on a CPU
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        against_a_bare_loop(confs, args.rounds, args.steps, work)
        settings(confs, args.steps, names)
        for config in confs:
            where_the_time_goes(config)
        with_loading(confs, work, find_head_ct(args.head_ct, work), args.workers, batches=3 + 4 * args.steps)


if __name__ == "__main__":
    main()
