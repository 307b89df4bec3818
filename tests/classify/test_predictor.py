import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from src.classify.predictor import predict_batches, predict_slices
from src.classify.tta import IDENTITY, apply_view
from src.config import ScaledView
from src.errors import UserError
from src.train.distributed import make_accelerator

IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Tiny(nn.Module):
    """Logits that are linear in the mean of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(1, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.norm(images).mean(dim=(1, 2, 3))[:, None])
        return logits


def _batches(*, shuffle: bool = False) -> DataLoader:
    return DataLoader([(i, IMAGES[i]) for i in range(10)], batch_size=4, shuffle=shuffle)  # type: ignore[arg-type]


def test_each_slice_gets_its_own_prediction_whatever_the_order() -> None:
    accelerator, network = make_accelerator("none"), Tiny().eval()
    probabilities = predict_slices(accelerator, network, accelerator.prepare(_batches(shuffle=True)), 10, "")
    assert probabilities.dtype == np.float32
    with torch.inference_mode():
        np.testing.assert_allclose(probabilities, network(IMAGES).sigmoid().numpy(), rtol=1e-5)


def test_many_networks_see_a_batch_in_all_views() -> None:
    accelerator, networks = make_accelerator("none"), [Tiny().eval() for _ in range(3)]
    views = (IDENTITY, ScaledView(name="Scale", factor=0.5))
    batches = predict_batches(accelerator, networks, accelerator.prepare(_batches()), "", n_slices=10, views=views)
    index, probabilities, waited = zip(*batches, strict=True)
    assert np.concatenate(index).tolist() == list(range(10))
    assert all(seconds >= 0 for seconds in waited)
    found = np.concatenate(probabilities, axis=1)
    assert (found.shape, found.dtype) == ((3, 10, 6), np.float32)
    for network, of_network in zip(networks, found, strict=True):
        with torch.inference_mode():
            expected = sum(network(apply_view(IMAGES, view)).sigmoid() for view in views) / 2
        np.testing.assert_allclose(of_network, expected.numpy(), rtol=1e-5)


def test_a_diverged_network_is_named() -> None:
    network = Tiny()
    with torch.no_grad():
        network.linear.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        predict_slices(make_accelerator("none"), network, _batches(shuffle=True), 10, "")
    accelerator, names = make_accelerator("none"), ["sound", "diverged"]
    with pytest.raises(UserError, match=r"^diverged: some predictions are not finite"):
        list(predict_batches(accelerator, [Tiny(), network], _batches(), "", n_slices=10, names=names))
