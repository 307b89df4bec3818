import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from src.classify.loop import make_accelerator, predict_batches, predict_slices, reestimate_batch_norm, train_epoch
from src.classify.state import Position
from src.classify.views import AS_IT_IS, look
from src.config import ScaledView
from src.errors import Stopped, UserError

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


def _batches_of_images() -> DataLoader:
    return DataLoader([(i, IMAGES[i]) for i in range(10)], batch_size=4)  # type: ignore[arg-type]


def test_fp16_becomes_fp32_without_a_gpu_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        assert make_accelerator("fp16").mixed_precision == "fp16"
    else:
        assert make_accelerator("fp16").mixed_precision == "no"
        assert capsys.readouterr().out == "no CUDA device: fp32 on the CPU in place of fp16\n"


@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bf16"), ("none", "no")])
def test_other_precisions_are_what_they_say(precision: str, expected: str) -> None:
    assert make_accelerator(precision).mixed_precision == expected


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
        train_epoch(accelerator, network, loader, optimizer, IDS, "training", position)
        losses.append(position.mean_loss)
    assert losses[-1] < losses[0] / 1.2


def test_the_mean_is_over_slices_not_batches() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    network.norm = nn.Identity()  # type: ignore[assignment]
    uneven, whole = Position(), Position()
    train_epoch(accelerator, network, _batches(4), optimizer, IDS, "", uneven)  # 4 + 4 + 2
    train_epoch(accelerator, network, _batches(10), optimizer, IDS, "", whole)
    assert uneven.mean_loss == pytest.approx(whole.mean_loss, rel=1e-6)
    assert (uneven.step, uneven.slices) == (3, 10)


def _plain_network() -> Tiny:
    torch.manual_seed(0)
    network = Tiny()
    network.norm = nn.Identity()  # type: ignore[assignment] - batch norm sees batches, not steps
    return network


def test_accumulated_batches_are_one_large_batch() -> None:
    accelerator = make_accelerator("none")
    weights, places = [], []
    for batch_size, accumulate in ((4, 1), (2, 2)):
        network, position = _plain_network(), Position()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        batches = list(_batches(batch_size))[: 8 // batch_size]
        train_epoch(accelerator, network, batches, optimizer, IDS, "", position, accumulate=accumulate)  # type: ignore[arg-type]
        weights.append(network.linear.weight.detach())
        places.append((position.step, position.slices, round(position.mean_loss, 6)))
    torch.testing.assert_close(weights[0], weights[1])
    assert places[0] == places[1]
    assert places[0][:2] == (2, 8)


def test_of_an_incomplete_group_no_step_is_made() -> None:
    position, network = Position(), _plain_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    train_epoch(make_accelerator("none"), network, _batches(4), optimizer, IDS, "", position, accumulate=2)  # 4 + 4 | 2
    assert (position.step, position.slices) == (1, 8)


def test_long_gradients_are_clipped() -> None:
    lengths = {}
    for clip_norm in (None, 1e-3):
        network = _plain_network()
        before = torch.cat([each.detach().flatten() for each in network.parameters()])
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        train_epoch(
            make_accelerator("none"), network, _batches(10), optimizer, IDS, "", Position(), clip_norm=clip_norm
        )
        after = torch.cat([each.detach().flatten() for each in network.parameters()])
        lengths[clip_norm] = float((after - before).norm())
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[None] > 0.01


def test_the_learning_rate_moves_with_every_step() -> None:
    network = _plain_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train_epoch(make_accelerator("none"), network, _batches(4), optimizer, IDS, "", Position(), scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_a_loss_that_is_not_finite_names_the_slices() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(UserError, match="the loss is nan on the slices ID_0, ID_1, ID_2, ID_3; try a lower"):
        train_epoch(accelerator, network, _batches(), optimizer, IDS, "", Position())
    all_of_them = ", ".join(IDS)
    with pytest.raises(UserError, match=f"the loss is nan on the slices {all_of_them}; try a lower"):
        train_epoch(accelerator, network, _batches(10), optimizer, IDS, "", Position())


def test_all_slices_of_a_step_are_named() -> None:
    # the first of two batches is the one that fails
    network = _plain_network()
    batches = list(_batches(4))
    batches[0]["image"] = torch.full_like(batches[0]["image"], float("inf"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(UserError) as raised:
        train_epoch(make_accelerator("none"), network, batches, optimizer, IDS, "", Position(), accumulate=2)  # type: ignore[arg-type]
    assert "on the slices ID_0, ID_1, ID_2, ID_3, of a step with ID_4, ID_5, ID_6, ID_7; try" in str(raised.value)


def test_sigterm_ends_between_two_steps() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    endless = _Endless(_batches())
    told: list[tuple[float, bool]] = []
    with pytest.raises(Stopped, match=r"goes on after step \d+ of epoch 1"):
        train_epoch(
            accelerator,
            network,
            endless,  # type: ignore[arg-type]
            optimizer,
            IDS,
            "",
            Position(),
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


def test_each_slice_is_predicted_at_its_place_whatever_the_order() -> None:
    accelerator, network = make_accelerator("none"), Tiny().eval()
    probabilities = predict_slices(accelerator, network, accelerator.prepare(_plain()), 10, "")
    assert probabilities.dtype == np.float32
    with torch.inference_mode():
        np.testing.assert_allclose(probabilities, network(IMAGES).sigmoid().numpy(), rtol=1e-5)


def test_many_networks_see_a_batch_in_all_views() -> None:
    accelerator, networks = make_accelerator("none"), [Tiny().eval() for _ in range(3)]
    views = (AS_IT_IS, ScaledView(name="Scale", factor=0.5))
    batches = predict_batches(
        accelerator, networks, accelerator.prepare(_batches_of_images()), "", n_slices=10, views=views
    )
    index, probabilities, waited = zip(*batches, strict=True)
    assert np.concatenate(index).tolist() == list(range(10))
    assert all(seconds >= 0 for seconds in waited)
    found = np.concatenate(probabilities, axis=1)
    assert (found.shape, found.dtype) == ((3, 10, 6), np.float32)
    for network, of_network in zip(networks, found, strict=True):
        with torch.inference_mode():
            expected = sum(network(look(IMAGES, view)).sigmoid() for view in views) / 2
        np.testing.assert_allclose(of_network, expected.numpy(), rtol=1e-5)


def test_a_diverged_network_is_named() -> None:
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        predict_slices(make_accelerator("none"), network, _plain(), 10, "")


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
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    train_epoch(
        make_accelerator("none"),
        network,
        _batches(),
        optimizer,
        IDS,
        "",
        position,
        after_step=lambda loss, stopping: time.sleep(0.2),
    )
    assert position.waiting < 0.2  # of 0.6 that went by with saving
