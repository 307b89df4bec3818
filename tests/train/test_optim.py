import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from src.config import OptimizerConf, SchedulerConf
from src.errors import UserError
from src.train.optim import OPTIMIZERS, make_average, make_optimizer, make_scheduler


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "FusedAdam"])
def test_every_optimiser_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = make_optimizer(OptimizerConf(name=name, lr=0.05), network)
    images = torch.rand(20, 3)
    targets = images.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(40):
        loss = (network(images) - targets).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1.5


def test_the_conf_reaches_the_optimiser() -> None:
    conf = OptimizerConf(name="SGD", lr=0.5, weight_decay=0.25, arguments={"momentum": 0.9, "nesterov": True})
    group = make_optimizer(conf, _network()).param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (0.5, 0.25, 0.9, True)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ({"name": "adam"}, "optimizer.name: adam is unknown; expected one of Adam, AdamW, NAdam"),
        ({"name": "SGD", "arguments": {"momentun": 0.9}}, "SGD has no argument momentun; it has lr, momentum"),
        ({"name": "SGD", "arguments": {"nesterov": True}}, "optimizer: SGD: Nesterov momentum requires a momentum"),
        ({"name": "Adam", "arguments": {"betas": "high"}}, "optimizer: Adam: "),
        ({"name": "Adam", "arguments": {"betas": [0.9]}}, "optimizer: Adam: "),
        # what torch looks at in a step only
        ({"name": "Adam", "arguments": {"differentiable": True}}, "optimizer: Adam: "),
        ({"name": "SGD", "arguments": {"momentum": 0.9, "dampening": "x"}}, "optimizer: SGD: "),
        ({"name": "FusedAdam"}, "FusedAdam comes with NVIDIA apex, which is not installed .* without it give Adam"),
    ],
)
def test_mistakes_are_named(conf: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make_optimizer(OptimizerConf(lr=1.0, **conf), _network())


def test_arguments_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="optimizer: Adam: If capturable=True, params"):
        make_optimizer(OptimizerConf(name="Adam", lr=1.0, arguments={"capturable": True}), _network())


def test_the_network_is_left_alone() -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = make_optimizer(OptimizerConf(name="Adam", lr=1.0), network)
    assert not optimizer.state
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_apexs_optimiser_where_apex_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    apex, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedAdam = torch.optim.Adam  # type: ignore[attr-defined] - stands for apex's, which needs a compiler
    monkeypatch.setitem(sys.modules, "apex", apex)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    conf = OptimizerConf(name="FusedAdam", lr=0.5, arguments={"eps": 1e-6})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="FusedAdam runs on a CUDA device only; give Adam or AdamW"):
        make_optimizer(conf, _network())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("src.train.optim._try_steps", lambda make, arguments: None)  # for want of that GPU
    group = make_optimizer(conf, _network()).param_groups[0]
    assert (group["lr"], group["eps"]) == (0.5, 1e-6)


def test_the_learning_rate_of_each_step() -> None:
    conf = SchedulerConf(warmup_steps=3, milestones=(1, 2), gamma=0.1)
    optimizer = torch.optim.SGD(_network().parameters(), lr=2.0)
    scheduler = make_scheduler(conf, optimizer, steps_per_epoch=5)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, [0.5, 1.0, 1.5, 2.0, 2.0, *[0.2] * 5, 0.02, 0.02], rtol=1e-6)


def test_the_average_is_the_recurrence() -> None:
    network = _network()
    average = make_average(network, decay=0.75)
    expected: dict[str, np.ndarray] = {}
    for step in range(5):
        network(torch.rand(4, 3, generator=torch.Generator().manual_seed(step)) + step)  # moves the running statistics
        with torch.no_grad():
            network[0].weight += step  # type: ignore[index, operator]
        average.update_parameters(network)
        for name, tensor in network.state_dict().items():
            now = tensor.double().numpy().copy()
            expected[name] = 0.75 * expected[name] + 0.25 * now if step else now
    for name, tensor in average.module.state_dict().items():
        if "num_batches" not in name:
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-5, err_msg=name)
