from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from src.config import SequenceConfig
from src.sequence.network import SequenceNetwork, differences
from src.sequence.series import SeriesBatch, SeriesSample, collate, position_features

D = 12
KINDS = ("gru", "lstm", "transformer")


def _series(z: Any, seed: int = 0) -> SeriesSample:
    rng = np.random.default_rng(seed)
    z, n = np.asarray(z, dtype=float), len(z)
    numbers = {key: torch.from_numpy(rng.normal(size=(n, k)).astype(np.float32)) for key, k in (("e", D), ("l", 6))}
    return {
        "index": torch.arange(n),
        "embedding": numbers["e"],
        "logits": 3 * numbers["l"],
        "positions": torch.from_numpy(position_features(z)),
        "z": torch.from_numpy((z - z[0]).astype(np.float32)),
        "target": torch.zeros(n, 6),
    }


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest, make_sequence_config: Callable[..., SequenceConfig]) -> SequenceNetwork:
    """With a last layer that says something, as after training."""
    torch.manual_seed(0)
    config = make_sequence_config(request.param, "logit_dropout=0.3", "logit_noise=0.5")
    network = SequenceNetwork(config, D, torch.full((6,), 0.1)).eval()
    torch.nn.init.normal_(network.head[-1].weight)
    return network


def _logits(network: SequenceNetwork, batch: SeriesBatch) -> torch.Tensor:
    logits: torch.Tensor = network(batch["embedding"], batch["logits"], batch["positions"], batch["z"], batch["mask"])
    return logits


@torch.no_grad()
def _corrections(network: SequenceNetwork, batch: SeriesBatch) -> torch.Tensor:
    return _logits(network, batch) - batch["logits"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_classifier(make_sequence_config: Callable[..., SequenceConfig], kind: str) -> None:
    network = SequenceNetwork(make_sequence_config(kind), D, torch.full((6,), 0.1)).eval()
    batch = collate([_series(np.arange(5.0)), _series(np.arange(9.0), 1)])
    assert torch.equal(_logits(network, batch), batch["logits"])


@pytest.mark.parametrize("length", [1, 2, 300])
def test_series_of_any_length(network: SequenceNetwork, length: int) -> None:
    corrections = _corrections(network, collate([_series(np.arange(length) * 0.6)]))
    assert corrections.shape == (1, length, 6)
    assert torch.isfinite(corrections).all()
    assert (corrections != 0).all()


def test_padding_changes_nothing(network: SequenceNetwork) -> None:
    short, long = _series(np.arange(4) * 5.0), _series(np.arange(30) * 2.0, 1)
    alone = _corrections(network, collate([short]))[0]
    batch = collate([short, long])
    torch.testing.assert_close(_corrections(network, batch)[0, :4], alone, atol=1e-5, rtol=1e-4)
    for key in ("embedding", "logits", "positions", "z"):  # whatever stands there
        batch[key][0, 4:] = 77.0  # type: ignore[literal-required]
    torch.testing.assert_close(_logits(network, batch)[0, :4] - short["logits"], alone, atol=1e-5, rtol=1e-4)


def test_with_and_without_gradients_it_says_the_same(network: SequenceNetwork) -> None:
    # torch's own encoder layer does not, given a bias
    batch = collate([_series(np.arange(4) * 5.0), _series(np.arange(30) * 2.0, 1)])
    with torch.inference_mode():
        without = _logits(network, batch)
    torch.testing.assert_close(_logits(network, batch)[batch["mask"]], without[batch["mask"]])


def test_every_slice_sees_every_other(network: SequenceNetwork) -> None:
    series = _series(np.arange(7) * 5.0)
    before = _corrections(network, collate([series]))[0]
    for changed in (0, 6):
        other: SeriesSample = {**series, "embedding": series["embedding"].clone()}
        other["embedding"][changed] += torch.randn(D, generator=torch.Generator().manual_seed(1))
        differs = (_corrections(network, collate([other]))[0] != before).any(dim=1)
        assert differs.all(), changed


def test_neighbours_in_another_order_say_something_else(network: SequenceNetwork) -> None:
    series = _series(np.arange(9) * 5.0)
    order = torch.tensor([8, 6, 2, 7, 4, 1, 3, 0, 5])  # the middle stays
    other: SeriesSample = {**series, "embedding": series["embedding"][order], "logits": series["logits"][order]}
    before, after = (_corrections(network, collate([each]))[0, 4] for each in (series, other))
    assert (before - after).abs().max() > 1e-2


def test_millimetres_count_not_numbers(network: SequenceNetwork) -> None:
    near, far = _series(np.arange(9) * 1.0), _series(np.arange(9) * 7.0)
    before, after = (_corrections(network, collate([each]))[0, 4] for each in (near, far))
    assert (before - after).abs().max() > 1e-3


def test_a_transformers_attention_falls_with_the_distance(
    make_sequence_config: Callable[..., SequenceConfig],
) -> None:
    torch.manual_seed(0)
    network = SequenceNetwork(make_sequence_config("transformer"), D, torch.full((6,), 0.1)).eval()
    torch.nn.init.normal_(network.head[-1].weight)
    influence = []
    for z in ([0, 5, 10, 15, 20], [0, 5, 390, 395, 400]):  # the last slice and the one before, nearby and far away
        series = _series(z)
        series["positions"] = torch.zeros(5, 5)
        before = _corrections(network, collate([series]))[0, 0]
        series["embedding"][4] += 3 * torch.randn(D, generator=torch.Generator().manual_seed(1))
        influence.append((_corrections(network, collate([series]))[0, 0] - before).abs().max().item())
    assert influence[1] < 0.2 * influence[0]


def test_differences_stop_at_the_ends_of_a_series() -> None:
    slices = torch.tensor([[[1.0], [4.0], [9.0]], [[2.0], [7.0], [0.0]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    before, after = differences(slices, mask)
    assert before[..., 0].tolist() == [[0, 3, 5], [0, 5, 0]]
    assert after[..., 0].tolist() == [[-3, -5, 0], [-5, 0, 0]]


def test_training_doubts_the_classifier(make_sequence_config: Callable[..., SequenceConfig]) -> None:
    prior = torch.tensor([0.4, 0.01, 0.1, 0.1, 0.1, 0.2])
    config = make_sequence_config("gru", "logit_dropout=0.25", "logit_noise=0.7")
    network = SequenceNetwork(config, D, prior)  # its last layer still says nothing: what comes out is what went in
    batch = collate([_series(np.arange(200.0), seed) for seed in range(20)])
    torch.manual_seed(0)
    said = _logits(network.train(), batch)
    hidden = torch.isclose(said, torch.logit(prior)).all(dim=-1)  # (B, T): all six of a slice at once
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.02)
    noise = (said - batch["logits"])[~hidden]
    assert noise.std().item() == pytest.approx(0.7, abs=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(_logits(network.eval(), batch), batch["logits"])  # prediction does not
    seen = []
    network.join.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    _logits(network.train(), batch)
    visible = seen[0][..., -11:-5]  # what the layers read of the logits is doubted too
    assert (visible == torch.logit(prior) / 4).all(dim=-1).float().mean().item() == pytest.approx(0.25, abs=0.02)
