import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import InductorError

from src.config import Config
from src.errors import Stopped, UserError
from src.train.errors import errors_explained


def _killed_worker() -> None:
    class Killed(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            os.kill(os.getpid(), 9)
            return index

    list(torch.utils.data.DataLoader(Killed(), num_workers=1))


def _raise(error: Exception) -> None:
    raise error


FAILURES = {
    "of 8 at 32 px does not fit the GPU's memory; give a smaller batch_size": lambda: _raise(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    ),
    "does not fit the machine's memory; give a smaller batch_size": lambda: torch.empty(2**60),
    r"a process that loads slices was ended \((signal: Killed|exited unexpectedly)\), .* fewer": _killed_worker,
    "another process of this run has ended, and says why where it ran": lambda: _raise(
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242")
    ),
    r"the shared memory \(/dev/shm\) .* is full; set workers: 0, .*shm-size": lambda: _raise(
        RuntimeError("unable to write to file </torch_4242_1234_0>: No space left on device (28)")
    ),
    r"too few file descriptors .* \(ulimit -n 65536\)": lambda: _raise(RuntimeError("received 0 items of ancdata")),
    r"torch.compile cannot .* \(RuntimeError: no C\+\+ compiler\); set compile: false": lambda: _raise(
        InductorError(RuntimeError("no C++ compiler"), None)
    ),
}


@pytest.mark.parametrize("expected", FAILURES)
def test_failures_say_what_to_change(config: Config, expected: str) -> None:
    with pytest.raises(UserError, match=expected), errors_explained(config):
        FAILURES[expected]()


@pytest.mark.parametrize(
    "how", ["is killed by signal: Terminated. ", "exited unexpectedly with exit code 143. Details"]
)
def test_a_loader_that_was_told_to_stop_is_no_lack_of_memory(config: Config, how: str) -> None:
    with pytest.raises(Stopped), errors_explained(config):
        raise RuntimeError(f"DataLoader worker (pid 4242) {how}")


def test_batch_norm_of_a_single_value(config: Config) -> None:
    # as where each of two processes gets one slice of a batch of two, and 32 px have become one
    with (
        pytest.raises(UserError, match=r"one slice of .*; give a larger batch_size or image_size"),
        errors_explained(config),
    ):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


def test_others_are_left_as_they_are(config: Config) -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"), errors_explained(config):
        raise RuntimeError("a mistake of ours")


def test_a_step_too_large_for_the_machine(repository: Path, config: Config) -> None:
    # a real network that is not given the memory it asks for
    code = """
        import resource, sys
        from pathlib import Path
        import torch
        from src.train.errors import errors_explained
        from src.classify.network import build_network
        from src.config import load_config
        from src.errors import run_command

        def main():
            config = load_config(Path("conf/se_resnext50_32x4d.yaml"), ["network.pretrained=none"])
            network = build_network(config)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
            with errors_explained(config):
                network(torch.zeros(config.batch_size, 1, config.image_size, config.image_size))

        run_command(main)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=repository, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    assert "error: a batch of 28 at 512 px does not fit the machine's memory; give a smaller" in result.stderr
