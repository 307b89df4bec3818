"""Training, measured: against a bare PyTorch loop, and what the network's settings cost and gain.

    python -m benchmarks.train --head-ct FOLDER

On a CUDA device at full size (512 px, the confs' batches); without one the same measurements on a CPU, small. FOLDER:
the DICOM files of one head CT, for loading; without it, a generated one.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loader import training_slices
from benchmarks.measure import alone, machine, table, take_turns
from benchmarks.preprocess import copy_head_ct, generated_head_ct
from src.classify.curves import Curves
from src.classify.dataset import EpochSampler
from src.classify.loading import make_loader
from src.classify.loop import make_accelerator, train_epoch
from src.classify.loss import weighted_bce
from src.classify.network import build_network
from src.classify.optimise import make_optimizer
from src.classify.state import Position
from src.config import Config, load_config
from src.files.images import ImageStore
from src.labels import WEIGHTS
from src.preprocess.create_dataset import create_dataset

CONFS = Path(__file__).parents[1] / "conf"
# each of the project's networks, and timm's twin of it
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


def has_gpu() -> bool:
    """Whether the figures are a GPU's."""
    return torch.cuda.is_available()


def make_batches(config: Config, count: int) -> list[dict[str, torch.Tensor]]:
    """Batches of noise that are on the device already."""
    device = "cuda" if has_gpu() else "cpu"
    generator = torch.Generator().manual_seed(0)
    n, side = config.batch_size, config.image_size
    return [
        {
            "index": torch.arange(n),
            "image": torch.rand((n, 2 * config.neighbours + 1, side, side), generator=generator).to(device),
            "target": (torch.rand((n, 6), generator=generator) < 0.1).float().to(device),
            "jitter": torch.zeros((n, len(config.windows), 2)).to(device),
        }
        for _ in range(count)
    ]


def synchronised() -> float:
    """The time, after all that was asked of the device is done."""
    if has_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- our loop against a bare one


def against_a_bare_loop(confs: list[Config], rounds: int, steps: int, work: Path) -> None:
    """train_epoch, with all it does around a step, and the fewest lines that train the same network."""
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
    accelerator = make_accelerator("none")
    batches, ids = make_batches(config, steps), [f"ID_{i}" for i in range(config.batch_size)]
    device = accelerator.device
    bare = build_network(config, pretrained="none").to(device).train()
    bare_optimizer = make_optimizer(config.optimizer, bare)
    ours = build_network(config, pretrained="none")
    network, optimizer = accelerator.prepare(ours, make_optimizer(config.optimizer, ours))
    weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=device)

    def run_bare() -> None:
        for batch in batches:
            loss = weighted_bce(bare(batch["image"], batch["jitter"]), batch["target"], weights)
            loss.backward()
            bare_optimizer.step()
            bare_optimizer.zero_grad()
        synchronised()

    def run_ours() -> None:
        position = Position()
        with Curves(work / "curves", 0) as curves:

            def after_step(loss: float, stopping: bool) -> None:
                curves.add({"step/loss": loss}, position.step)

            with contextlib.redirect_stderr(io.StringIO()):
                train_epoch(accelerator, network, batches, optimizer, ids, "", position, after_step=after_step)  # type: ignore[arg-type]
        synchronised()

    return take_turns({"bare": run_bare, "train_epoch": run_ours}, rounds)


# ---- what each setting gains


def settings(confs: list[Config], steps: int, names: list[str]) -> None:
    """Images per second, peak memory and the share of the measured matrix-product rate, for each setting."""
    default = next((name for name in names if "default" in name), "fp32, channels-last")
    rows = []
    for config in confs:
        variants = {name: _changed(config, SETTINGS[name]) for name in names}
        twin = [*SETTINGS[default], f"network.architecture={NETWORKS[config.name]}"]
        variants[f"timm's twin, {default}"] = _changed(config, twin)
        for name, variant in variants.items():
            try:
                _, _, found = alone(_throughput, variant, steps)
            except RuntimeError as error:  # what does not fit or compile here is a result too
                rows.append((config.name, name, str(error).splitlines()[0][:60], "", ""))
                continue
            share = found["flops"] * found["images_per_second"] / found["matrix_flops"]
            rows.append((config.name, name, found["images_per_second"], found["peak_mb"] or "-", f"{share:.0%}"))
    columns = ("network", "setting", "images/s", "peak MB of the GPU", "share of the matrix-product rate")
    table(
        f"Settings, {confs[0].image_size} px, batches of {' and '.join(str(c.batch_size) for c in confs)}",
        columns,
        rows,
    )


def _changed(config: Config, overrides: list[str]) -> Config:
    sizes = [f"image_size={config.image_size}", f"batch_size={config.batch_size}"]
    return load_config(CONFS / f"{config.name}.yaml", [*sizes, *overrides])


class Steps:
    """A network in training, a step at a time."""

    def __init__(self, config: Config) -> None:
        self.config, self.accelerator = config, make_accelerator(config.precision)
        own = build_network(config, pretrained="none")
        self.network, self.optimizer = self.accelerator.prepare(own, make_optimizer(config.optimizer, own))
        if config.compile:
            own.compile()
        self.ids = [f"ID_{i}" for i in range(10**6)]

    def train(self, batches: Any) -> None:
        """One epoch over these batches."""
        with contextlib.redirect_stderr(io.StringIO()):
            train_epoch(self.accelerator, self.network, batches, self.optimizer, self.ids, "", Position())


def _throughput(config: Config, steps: int) -> dict[str, float]:
    training, batches = Steps(config), make_batches(config, 2)
    training.train(batches)  # what is chosen or compiled once
    if has_gpu():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begun = synchronised()
        training.train(batches)
        seconds.append((synchronised() - begun) / len(batches))
    return {
        "images_per_second": config.batch_size / statistics.median(seconds),
        "peak_mb": torch.cuda.max_memory_allocated() // 2**20 if has_gpu() else 0,
        "flops": flops(config),
        "matrix_flops": matrix_product_rate(config.precision),
    }


def flops(config: Config) -> float:
    """Floating-point operations of one image in training; a multiplication and its addition are two.

    Three times those of the forward pass, as is the custom: the counter errs on the backward pass of grouped
    convolutions, of which both networks are made.
    """
    network = build_network(config, pretrained="none").eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.rand(1, 2 * config.neighbours + 1, config.image_size, config.image_size))
    return 3 * counter.get_total_flops()


def matrix_product_rate(precision: str) -> float:
    """Floating-point operations a second of a large matrix product, in the type that convolutions take."""
    halves = {"fp16": torch.float16 if has_gpu() else torch.float32, "bf16": torch.bfloat16, "none": torch.float32}
    side, device = (8192, "cuda") if has_gpu() else (2048, "cpu")
    one = torch.rand(side, side, device=device).to(halves[precision])
    seconds = []
    for _ in range(12):
        begun = synchronised()
        one @ one
        seconds.append(synchronised() - begun)
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
    table(f"{config.name}: where a step's time goes, conf's settings", ("operation", "share", "calls a step"), rows)


# ---- with real loading


def with_loading(confs: list[Config], work: Path, head_ct: list[Path], workers: int, batches: int) -> None:
    """Throughput with slices from the store against the same with batches that are on the device already."""
    (work / "images").mkdir()
    copies = copy_head_ct(head_ct, work / "images", 112)
    create_dataset(copies, work / "store", engine="serial")
    rows = []
    for config in confs:
        _, _, (loaded, there) = alone(_loaded, config, work, copies, workers, batches)
        rows.append((config.name, workers, there, loaded, f"{loaded / there:.1%}"))
    columns = ("network", "workers", "batches on the device, images/s", "loaded, images/s", "share")
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
        training.train(_stamped(source, stamps))
        end = synchronised()
        # the loader's start happens once an epoch of tens of thousands of steps: it does not count here
        seconds.append((end - stamps[2]) / (count - 2))
    loaded, there = (config.batch_size / each for each in seconds)
    return loaded, there


class _Repeated:
    """The same batches again and again."""

    def __init__(self, batches: list[Any], count: int) -> None:
        self.batches, self.count = batches, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[i % len(self.batches)] for i in range(self.count))


class _stamped(_Repeated):  # noqa: N801 - a wrapper, as one would call it
    """Note when each batch is asked for."""

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
        return ((1 + i // self.n_slices, i % self.n_slices) for i in range(self.count))


def main() -> None:
    """Read arguments, run all of it, print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.split("\n")[0])
    parser.add_argument("--head-ct", type=Path, help="folder of one head CT's DICOM files (default: a generated one)")
    parser.add_argument("--image-size", type=int, help="in pixels (default 512, on a CPU 128)")
    parser.add_argument("--batch-size", type=int, help="of a step (default the conf's, on a CPU 8)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each comparison (default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="steps of a round (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the loader (default %(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="default: all that the device has")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    size = args.image_size or (512 if has_gpu() else 128)
    batch = args.batch_size or (None if has_gpu() else 8)
    sizes = [f"image_size={size}", *([f"batch_size={batch}"] if batch else [])]
    confs = [load_config(CONFS / f"{name}.yaml", sizes) for name in NETWORKS]
    device = torch.cuda.get_device_name() if has_gpu() else "no CUDA device: the GPU's figures are missing"
    print(f"{machine()}, torch {torch.__version__}; {device}")
    names = args.settings or [name for name in SETTINGS if has_gpu() or "fp16" not in name]  # fp16 is fp32 on a CPU
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        against_a_bare_loop(confs, args.rounds, args.steps, work)
        settings(confs, args.steps, names)
        for config in confs:
            where_the_time_goes(config)
        head_ct = sorted(args.head_ct.glob("*.dcm")) if args.head_ct else generated_head_ct(work / "generated")
        with_loading(confs, work, head_ct, args.workers, batches=3 + 4 * args.steps)


if __name__ == "__main__":
    main()
