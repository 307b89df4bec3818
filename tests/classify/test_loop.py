import os
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from src.classify.loop import make_accelerator, predict_slices, reestimate_batch_norm, train_epoch
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
    losses = [train_epoch(accelerator, network, loader, optimizer, IDS, "training") for _ in range(15)]
    assert losses[-1] < losses[0] / 1.2


def test_the_mean_is_over_slices_not_batches() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    network.norm = nn.Identity()  # type: ignore[assignment]
    uneven = train_epoch(accelerator, network, _batches(4), optimizer, IDS, "")  # 4 + 4 + 2
    whole = train_epoch(accelerator, network, _batches(10), optimizer, IDS, "")
    assert uneven == pytest.approx(whole, rel=1e-6)


def test_a_loss_that_is_not_finite_names_the_slices() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(UserError, match="the loss is nan on the slices ID_0, ID_1, ID_2, ID_3; try a lower"):
        train_epoch(accelerator, network, _batches(), optimizer, IDS, "")


def test_sigterm_ends_between_two_steps() -> None:
    accelerator = make_accelerator("none")
    network = Tiny()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    endless = _Endless(_batches())
    with pytest.raises(Stopped):
        train_epoch(accelerator, network, endless, optimizer, IDS, "")  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) == before


class _Endless:
    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self):
        while True:
            yield from self.loader


def test_each_slice_is_predicted_at_its_place_whatever_the_order() -> None:
    accelerator = make_accelerator("none")
    networks = [Tiny().eval(), Tiny().eval()]
    probabilities = predict_slices(accelerator, networks, accelerator.prepare(_plain()), 10, "")
    assert probabilities.shape == (2, 10, 6)
    assert probabilities.dtype == np.float32
    for network, found in zip(networks, probabilities, strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(found, network(IMAGES).sigmoid().numpy(), rtol=1e-5)


def test_a_diverged_network_is_named() -> None:
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        predict_slices(make_accelerator("none"), [network], _plain(), 10, "")


def test_batch_norm_gets_the_statistics_of_the_slices() -> None:
    network = Tiny()
    momentum = network.norm.momentum
    reestimate_batch_norm(make_accelerator("none"), network, _plain(5), "")
    assert network.norm.running_mean is not None
    assert network.norm.running_mean.item() == pytest.approx(IMAGES.mean().item(), rel=1e-5)
    assert network.norm.momentum == momentum
