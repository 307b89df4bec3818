"""Waiting threads of OpenMP spin briefly, and results do not depend on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = "import os, src; print(os.environ.get('GOMP_SPINCOUNT'))"
STEP = """
import hashlib, src, torch
from torch import nn
torch.set_num_threads(2)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.LazyLinear(6)
)
optimizer = None
for step in range(3):
    loss = network(torch.rand(8, 3, 40, 40)).square().mean()
    optimizer = optimizer or torch.optim.Adam(network.parameters())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
digest = hashlib.sha256()
for tensor in network.state_dict().values():
    digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""


def _python(repository: Path, code: str, **variables: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env={**inherited, **variables}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_the_spin_is_short_and_can_be_overridden(repository: Path, variables: dict[str, str], expected: str) -> None:
    assert _python(repository, SHOW, **variables) == expected


def test_what_this_process_starts_inherits_it() -> None:
    show = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    result = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True)
    assert result.stdout.strip() == os.environ["GOMP_SPINCOUNT"]


def test_it_does_not_change_a_bit(repository: Path) -> None:
    short, endless, none = (_python(repository, STEP, GOMP_SPINCOUNT=count) for count in ("5000", "infinite", "0"))
    assert short == endless == none
