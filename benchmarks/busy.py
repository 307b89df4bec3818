"""A training on a machine that others use too: how long waiting threads should spin, alone and beside busy processes.

Each setting trains efficientnet-b2 on made-up images in a process of its own, alone and beside two processes that keep
two cores busy; the settings take turns.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys

from benchmarks.measure import machine, table

SETTINGS = {
    "endless (libgomp's own)": {"GOMP_SPINCOUNT": "infinite"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
    "5000": {"GOMP_SPINCOUNT": "5000"},
    "2000": {"GOMP_SPINCOUNT": "2000"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "none (OMP_WAIT_POLICY=passive)": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}

# a step as train_epoch makes it, without loading: what spins is the network
TRAINING = """
import sys, time
from pathlib import Path
import src, torch
from src.classify.network import build_network
from src.config import load_config
size, batch, seconds = map(int, sys.argv[1:])
config = load_config(Path("conf/efficientnet-b2.yaml"), [f"image_size={size}", "network.pretrained=none"])
torch.manual_seed(0)
network = build_network(config).train()
optimizer = torch.optim.Adam(network.parameters())
images = torch.rand(batch, 1, size, size)
def step():
    loss = network(images).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(2):
    step()
steps, started = 0, time.perf_counter()
while time.perf_counter() - started < seconds:
    step()
    steps += 1
print(steps * batch / (time.perf_counter() - started))
"""


def burn() -> None:
    """Keep a core busy until ended."""
    while True:
        pass


def images_per_second(setting: dict[str, str], burners: int, arguments: argparse.Namespace) -> float:
    """Train by a setting beside some busy processes: images per second."""
    processes = [multiprocessing.Process(target=burn, daemon=True) for _ in range(burners)]
    for process in processes:
        process.start()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    numbers = [str(each) for each in (arguments.image_size, arguments.batch_size, arguments.seconds)]
    command = [sys.executable, "-c", TRAINING, *numbers]
    try:
        result = subprocess.run(command, env={**kept, **setting}, capture_output=True, text=True, check=True)  # noqa: S603 - this interpreter
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return float(result.stdout)


def main() -> None:
    """Read arguments, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=8, help="of training in each (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="in pixels (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="of a step (default %(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="(default: all)")
    arguments = parser.parse_args()
    print(machine())
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for name in arguments.settings:
            for burners in (0, 2):
                speed = images_per_second(SETTINGS[name], burners, arguments)
                found.setdefault((name, burners), []).append(speed)
                # as it goes: all settings take minutes
                print(f"{name}, beside {burners}: {speed:.1f} images/s", file=sys.stderr, flush=True)
    first = arguments.settings[0]
    rows = []
    for name in arguments.settings:
        alone, busy = (statistics.median(found[name, burners]) for burners in (0, 2))
        of_first = [statistics.median(found[first, burners]) for burners in (0, 2)]
        rows.append((name, alone, alone / of_first[0], busy, busy / of_first[1]))
    columns = ("spin", "alone, images/s", "to the first", "beside two busy processes, images/s", "to the first")
    title = (
        f"efficientnet-b2, {arguments.image_size} px, batches of {arguments.batch_size}, medians of {arguments.rounds}"
    )
    table(title, columns, rows)


if __name__ == "__main__":
    main()
