import os
import signal
import threading
import time
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.errors import Stopped, UserError
from src.train.distributed import make_accelerator
from src.train.epoch import TrainingStep, reestimate_batch_norm, train_epoch
from src.train.state import Position

IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
IDS = [f"ID_{i}" for i in range(10)]


class Tiny(nn.Module):
    """Logits that are linear in the mean of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(1, 6)

    def forward(self, images: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.norm(images).mean(dim=(1, 2, 3))[:, None])
        return logits


def _batches(batch_size: int = 4) -> DataLoader:
    targets = (IMAGES.mean(dim=(1, 2, 3)) > 0.5).float()[:, None].expand(10, 6)
    dataset = [{"index": i, "image": IMAGES[i], "target": targets[i], "jitter": torch.zeros(3, 2)} for i in range(10)]
    return DataLoader(dataset, batch_size=batch_size)  # type: ignore[arg-type]


def _plain(batch_size: int = 4) -> DataLoader:
    return DataLoader([(i, IMAGES[i]) for i in range(10)], batch_size=batch_size, shuffle=True)  # type: ignore[arg-type]


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> TrainingStep:
    """A step of a network whose batches are those of `_batches`."""
    accelerator: Accelerator = more.pop("accelerator", None) or make_accelerator("none")
    return TrainingStep(
        accelerator,
        network,
        optimizer,
        lambda net, batch: (net(batch["image"], batch["jitter"]), batch["target"]),
        **more,
    )


@pytest.mark.parametrize("precision", ["none", "bf16"])
def test_an_epoch_lowers_the_loss(precision: str) -> None:
    torch.manual_seed(0)
    accelerator = make_accelerator(precision)
    network = Tiny()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network, optimizer, loader = accelerator.prepare(network, optimizer, _batches())
    losses = []
    for _ in range(15):
        position = Position()
        train_epoch(_step(network, optimizer, accelerator=accelerator), loader, position, ids=IDS, desc="training")
        losses.append(position.mean_loss)
    assert losses[-1] < losses[0] / 1.2


def test_the_mean_is_over_slices_not_batches() -> None:
    network = Tiny()
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.0))
    network.norm = nn.Identity()  # type: ignore[assignment]
    uneven, whole = Position(), Position()
    train_epoch(step, _batches(4), uneven, ids=IDS, desc="")  # 4 + 4 + 2
    train_epoch(step, _batches(10), whole, ids=IDS, desc="")
    assert uneven.mean_loss == pytest.approx(whole.mean_loss, rel=1e-6)
    assert (uneven.step, uneven.slices) == (3, 10)


def _plain_network() -> Tiny:
    torch.manual_seed(0)
    network = Tiny()
    network.norm = nn.Identity()  # type: ignore[assignment] - batch norm sees batches, not steps
    return network


def test_accumulated_batches_are_one_large_batch() -> None:
    weights, positions = [], []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        network, position = _plain_network(), Position()
        step = _step(network, torch.optim.SGD(network.parameters(), lr=0.5))
        batches = list(_batches(batch_size))[: 8 // batch_size]
        train_epoch(step, batches, position, ids=IDS, desc="", accumulate=accumulate)  # type: ignore[arg-type]
        weights.append(network.linear.weight.detach())
        positions.append((position.step, position.slices, round(position.mean_loss, 6)))
    torch.testing.assert_close(weights[0], weights[1])
    assert positions[0] == positions[1]
    assert positions[0][:2] == (2, 8)


def test_of_an_incomplete_group_no_step_is_made() -> None:
    position, network = Position(), _plain_network()
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.5))
    train_epoch(step, _batches(4), position, ids=IDS, desc="", accumulate=2)  # 4 + 4 | 2
    assert (position.step, position.slices) == (1, 8)


def test_long_gradients_are_clipped() -> None:
    lengths = {}
    for clip_norm in (None, 1e-3):
        network = _plain_network()
        before = torch.cat([each.detach().flatten() for each in network.parameters()])
        step = _step(network, torch.optim.SGD(network.parameters(), lr=1.0), clip_norm=clip_norm)
        train_epoch(step, _batches(10), Position(), ids=IDS, desc="")
        after = torch.cat([each.detach().flatten() for each in network.parameters()])
        lengths[clip_norm] = float((after - before).norm())
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[None] > 0.01


def test_the_learning_rate_moves_with_every_step() -> None:
    network = _plain_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train_epoch(_step(network, optimizer, scheduler=scheduler), _batches(4), Position(), ids=IDS, desc="")
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_a_loss_that_is_not_finite_names_the_slices() -> None:
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.1))
    with pytest.raises(UserError, match="the loss is nan on the slices ID_0, ID_1, ID_2, ID_3; try a lower"):
        train_epoch(step, _batches(), Position(), ids=IDS, desc="")
    all_of_them = ", ".join(IDS)
    with pytest.raises(UserError, match=f"the loss is nan on the slices {all_of_them}; try a lower"):
        train_epoch(step, _batches(10), Position(), ids=IDS, desc="")


def test_all_slices_of_a_step_are_named() -> None:
    # the first of two batches is the one that fails
    network = _plain_network()
    batches = list(_batches(4))
    batches[0]["image"] = torch.full_like(batches[0]["image"], float("inf"))
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.1))
    with pytest.raises(UserError) as raised:
        train_epoch(step, batches, Position(), ids=IDS, desc="", accumulate=2)  # type: ignore[arg-type]
    assert "on the slices ID_0, ID_1, ID_2, ID_3, of a step with ID_4, ID_5, ID_6, ID_7; try" in str(raised.value)


def test_sigterm_ends_between_two_steps() -> None:
    network = Tiny()
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.1))
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    endless = _Endless(_batches())
    told: list[tuple[float, bool]] = []
    with pytest.raises(Stopped, match=r"goes on after step \d+ of epoch 1"):
        train_epoch(
            step,
            endless,  # type: ignore[arg-type]
            Position(),
            ids=IDS,
            desc="",
            after_step=lambda loss, stopping: told.append((loss, stopping)),
        )
    assert told[-1][1] is True
    assert not any(stopping for _, stopping in told[:-1])
    assert all(0 < loss < 2 for loss, _ in told)
    assert signal.getsignal(signal.SIGTERM) == before


class _Endless:
    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self):
        while True:
            yield from self.loader


def test_batch_norm_gets_the_statistics_of_the_slices() -> None:
    network = Tiny()
    momentum = network.norm.momentum
    reestimate_batch_norm(make_accelerator("none"), network, _plain(5), "")
    assert network.norm.running_mean is not None
    assert network.norm.running_mean.item() == pytest.approx(IMAGES.mean().item(), rel=1e-5)
    assert network.norm.momentum == momentum


def test_batch_norm_is_estimated_without_dropout() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    reestimate_batch_norm(make_accelerator("none"), network, _plain(10), "")
    assert network[1].running_mean.item() == pytest.approx(IMAGES.mean().item(), rel=1e-5)  # type: ignore[union-attr]


def test_saving_is_no_waiting_for_data() -> None:
    network, position = _plain_network(), Position()
    step = _step(network, torch.optim.SGD(network.parameters(), lr=0.5))
    train_epoch(step, _batches(), position, ids=IDS, desc="", after_step=lambda loss, stopping: time.sleep(0.2))
    assert position.waiting < 0.2  # of 0.6 that went by with saving
