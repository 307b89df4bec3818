"""One training on several processes and machines: stopped in every way, it ends in the same weights."""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from src.classify.dataset import EvalDataset, read_fold_split
from src.classify.network import build_network
from src.config import load_config
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.train import launch as launch_module
from src.train.checkpoint import load_checkpoint
from src.train.distributed import make_accelerator
from src.train.epoch import reestimate_batch_norm
from src.train.launch import launch
from src.train.loader import make_loader
from src.train.state import read_state


def test_fp16_becomes_fp32_without_a_gpu_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        assert make_accelerator("fp16").mixed_precision == "fp16"
    else:
        assert make_accelerator("fp16").mixed_precision == "no"
        assert capsys.readouterr().out == "no CUDA device: fp32 on the CPU in place of fp16\n"


@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bf16"), ("none", "no")])
def test_other_precisions_are_what_they_say(precision: str, expected: str) -> None:
    assert make_accelerator(precision).mixed_precision == expected


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    path = tmp_path_factory.mktemp("conf") / "small.yaml"
    path.write_text(
        f"base: {repository}/conf/demo/base.yaml\n"
        "network: {architecture: timm/test_efficientnet, dropout: 0.3, reestimate_batch_norm: true}\n"
        "image_size: 32\nepochs: 3\nbatch_size: 4\nsave_steps: 1\nema_decay: 0.5\nworkers: 0\n"
    )
    return path


def _root(preprocessed: Layout, folder: Path) -> Layout:
    folder.mkdir(exist_ok=True)
    (folder / "cache").symlink_to(preprocessed.root / "cache")
    return Layout(folder)


def _train(repository: Path, python: str, conf: Path, layout: Layout) -> subprocess.Popen[str]:
    settings = {"PYTHON": python, "ICH_ROOT": str(layout.root), "CONFS": str(conf), "FOLDS": "0", "NPROC": "2"}
    return subprocess.Popen(
        ["sh", str(repository / "bin/train.sh")],
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=150)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def whole(
    repository: Path, python: str, preprocessed: Layout, conf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    """Trained on two processes without a stop."""
    layout = _root(preprocessed, tmp_path_factory.mktemp("whole"))
    status, _, errors = _finish(_train(repository, python, conf, layout))
    assert status == 0, errors
    return layout


def test_batch_norm_is_estimated_from_the_slices_of_all_processes(whole: Layout, conf: Path) -> None:
    config = load_config(conf)
    network = build_network(config)
    load_checkpoint(whole.fold("small", 0).checkpoint(3), network)
    # the first norm alone sees the same whatever the batches of those before it were
    estimated = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert estimated.running_mean is not None
    found = estimated.running_mean.clone()
    slices = EvalDataset(read_fold_split(whole, 0)[0].inputs, config)
    loader = make_loader(config, slices, drop_last=True)
    reestimate_batch_norm(make_accelerator("none"), network, loader, "")
    torch.testing.assert_close(found, estimated.running_mean, rtol=1e-4, atol=1e-6)


def _wait_for_saves(process: subprocess.Popen[str], layout: Layout, count: int) -> None:
    state, seen = layout.fold("small", 0).state, set()
    while len(seen) < count:
        assert process.poll() is None, _finish(process)
        with contextlib.suppress(FileNotFoundError):
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.001)


def test_two_processes_stopped_in_every_way(
    repository: Path, preprocessed: Layout, conf: Path, whole: Layout, tmp_path: Path
) -> None:
    layout = _root(preprocessed, tmp_path / "stopped")
    # the machine fails: nothing of the run is left
    process = _train(repository, sys.executable, conf, layout)
    _wait_for_saves(process, layout, 2)
    script = psutil.Process(process.pid)
    everything = [script, *script.children(recursive=True)]
    assert len(everything) >= 4  # script, launcher, two processes
    for each in everything:
        each.kill()
    _finish(process)
    assert not layout.fold("small", 0).checkpoint(3).is_file()
    # the machine is taken away
    process = _train(repository, sys.executable, conf, layout)
    _wait_for_saves(process, layout, 4)
    process.send_signal(signal.SIGTERM)
    status, _, errors = _finish(process)
    assert status == 75, errors
    assert "stopped: the same command goes on after step" in errors
    assert not layout.fold("small", 0).checkpoint(3).is_file()
    # the script alone is killed; what it started goes on, and the same command waits for it
    process = _train(repository, sys.executable, conf, layout)
    _wait_for_saves(process, layout, 2)
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for each in left:
        each.suspend()
    again = _train(repository, sys.executable, conf, layout)
    assert again.stderr is not None
    assert "fold0 is being filled by another run; waiting for its end" in again.stderr.readline()
    for each in left:
        each.resume()
    status, output, errors = _finish(again)
    assert status == 0, errors
    assert "trained already" in output
    for epoch in (1, 2, 3):
        found, expected = (each.fold("small", 0).checkpoint(epoch) for each in (layout, whole))
        assert file_sha256(found) == file_sha256(expected)


def _is_worker_that_began(process: psutil.Process) -> bool:
    """Whether it is a loader's worker that holds off SIGTERM: see loader.start_worker."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        # the name too: Python blocks all signals for a moment in whatever it starts
        return "pt_data_worker" in status and bool(blocked >> (signal.SIGTERM - 1) & 1)
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_all_processes_is_saved_too(
    repository: Path, preprocessed: Layout, conf: Path, tmp_path: Path, processes: int
) -> None:
    # as from Slurm, `timeout` or torchrun: the loaders' workers get it with the loop that needs them
    layout = _root(preprocessed, tmp_path / "root")
    slow = tmp_path / "small.yaml"
    slow.write_text(f"base: {conf}\nimage_size: 192\nsave_steps: 0\nworkers: 1\n")
    module = [sys.executable, "-m", *(["src.train.launch", "2"] if processes == 2 else []), "src.classify.train"]
    process = subprocess.Popen(
        [*module, str(slow), "--fold", "0", "--root", str(layout.root)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while sum(map(_is_worker_that_began, family := psutil.Process(process.pid).children(recursive=True))) < processes:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped: the same command goes on after step" in errors
    assert "memory" not in errors
    assert 0 < read_state(layout.fold("small", 0).state)["position"]["step"] < 16
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_the_launcher_waits_for_long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # torchrun by itself kills what has not ended 30 s after a signal; one step at 512 px on a CPU may take longer
    given: list[argparse.Namespace] = []
    monkeypatch.setattr(launch_module, "run", given.append)
    monkeypatch.setattr(logging, "disable", lambda level: None)
    assert launch(2, "src.classify.train", ["conf/x.yaml"]) == 0
    assert given[0].shutdown_timeout >= 120


@pytest.mark.parametrize(
    ("ends", "status"),
    [("exit 0", 75), ("exit 75", 75), ("trap - TERM; kill -TERM $$", 75), ("exit 2", 2), ("exit 1", 1)],
)
def test_a_script_that_was_told_to_stop_says_how_its_command_ended(
    repository: Path, tmp_path: Path, ends: str, status: int
) -> None:
    python = tmp_path / "python"  # in place of a training
    python.write_text(f"#!/bin/sh\ntrap '{ends}' TERM\necho begun\nwhile :; do sleep 0.05; done\n")
    python.chmod(0o755)
    process = subprocess.Popen(
        ["sh", str(repository / "bin/train.sh")],
        env={**os.environ, "PYTHON": str(python), "ICH_ROOT": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "begun\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == status


def _on_two_machines(
    repository: Path, conf: Path, roots: list[Layout], *, ours: bool = False
) -> list[subprocess.Popen[str]]:
    """Start what docs/training.md says to run on each of two machines: torchrun, or our launcher of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    if ours:
        command = [sys.executable, "-m", "src.train.launch", *meeting, "1", "src.classify.train"]
    else:
        command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-id", "1", "-m", "src.classify.train"]
    return [
        subprocess.Popen(
            [*command, str(conf), "--fold", "0", "--root", str(layout.root)],
            cwd=repository,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for layout in roots
    ]


def test_two_machines_train_one_model(
    repository: Path, preprocessed: Layout, conf: Path, whole: Layout, tmp_path: Path
) -> None:
    layout = _root(preprocessed, tmp_path / "shared")
    # one of them is taken away: both save and end
    machines = _on_two_machines(repository, conf, [layout, layout], ours=True)
    _wait_for_saves(machines[0], layout, 3)
    machines[1].send_signal(signal.SIGTERM)
    for machine in machines:
        status, _, errors = _finish(machine)
        assert status == 75, errors
        assert "stopped: the same command goes on after step" in errors
    assert not layout.fold("small", 0).checkpoint(3).is_file()
    for machine in _on_two_machines(repository, conf, [layout, layout]):
        status, _, errors = _finish(machine)
        assert status == 0, errors
    assert file_sha256(layout.fold("small", 0).checkpoint(3)) == file_sha256(whole.fold("small", 0).checkpoint(3))


def test_machines_without_shared_storage_are_told(
    repository: Path, preprocessed: Layout, conf: Path, whole: Layout, tmp_path: Path
) -> None:
    shutil.copytree(whole.root / "model", tmp_path / "one" / "model")
    roots = [_root(preprocessed, tmp_path / name) for name in ("one", "two")]
    results = [_finish(machine) for machine in _on_two_machines(repository, conf, roots, ours=True)]
    assert any(
        "error: the processes see different files in" in errors and "must use the same storage under the root" in errors
        for _, _, errors in results
    ), results
    assert {status for status, _, _ in results} <= {2, 143}, results  # told, or ended with the one that was
    assert not any("Traceback" in errors for _, _, errors in results)
    assert not (tmp_path / "two/model/small/fold0/epoch1.safetensors").exists()
