import io
from pathlib import Path

import pytest
import torch

from src.classify.network import build_network
from src.config import Config
from src.errors import UserError
from src.files.checksum import write_sealed
from src.train.distributed import make_accelerator
from src.train.optim import make_average
from src.train.state import Position, TrainingState, read_state


def _state(config: Config) -> TrainingState:
    network = build_network(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    return TrainingState(
        make_accelerator("none"), network, make_average(network, 0.5), optimizer, scheduler, "these slices"
    )


def _step(state: TrainingState) -> None:
    state.network(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))).sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    assert state.average is not None
    state.average.update_parameters(state.network)


def test_what_goes_on_is_what_was_saved(config: Config, tmp_path: Path) -> None:
    state = _state(config)
    _step(state)
    state.scheduler.step()
    state.position, state.metrics = Position(2, 7, 3.5, 56, 1.25), [{"epoch": 1, "valid": 0.25}]
    state.save(tmp_path / "state.pt")
    saved = read_state(tmp_path / "state.pt")
    assert saved["trained_on"] == "these slices"
    other = _state(config)
    other.restore(saved)
    assert (other.position, other.metrics) == (state.position, state.metrics)
    assert other.scheduler.get_last_lr() == pytest.approx([0.01])
    for going_on in (state, other):
        _step(going_on)  # with the optimiser's moments
    for name, tensor in state.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], tensor), name
        assert torch.equal(other.eval_network.state_dict()[name], state.eval_network.state_dict()[name]), name
    assert not torch.equal(
        state.eval_network.state_dict()["backbone.classifier.bias"],
        state.network.state_dict()["backbone.classifier.bias"],
    )


@pytest.mark.parametrize("wrong", [3, "text", [], [1, 2], {}, {"x": 1}, {"x": torch.zeros(2)}, None])
@pytest.mark.parametrize("key", ["network", "average", "optimizer", "scheduler", "position", "metrics"])
def test_other_things_in_the_place_of_a_state_are_told(config: Config, tmp_path: Path, key: str, wrong: object) -> None:
    state = _state(config)
    state.save(tmp_path / "state.pt")
    saved = read_state(tmp_path / "state.pt") | {key: wrong}
    if (key, wrong) in (("metrics", []), ("position", {})):
        return  # of the beginning
    with pytest.raises(UserError, match="the saved state does not fit this training"):
        _state(config).restore(saved)


def test_a_position_of_other_types_is_told(config: Config, tmp_path: Path) -> None:
    state = _state(config)
    state.save(tmp_path / "state.pt")
    for name, value in (("epoch", "1"), ("step", 1.5), ("loss", None), ("waiting", [])):
        saved = read_state(tmp_path / "state.pt")
        saved["position"] = saved["position"] | {name: value}
        with pytest.raises(UserError, match="does not fit this training"):
            _state(config).restore(saved)


def test_state_is_data_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_sealed(path, _saved({"metrics": []}))
    with pytest.raises(UserError, match=r"lacks network, average, optimizer and 4 more; delete .* to train"):
        read_state(path)
    write_sealed(path, _saved({"metrics": Path("code")}))  # an object, whose loading would run code
    with pytest.raises(UserError, match=r"state.pt cannot be read"):
        read_state(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"state.pt has no checksum.* delete .* to train this fold again"):
        read_state(path)


def test_every_changed_byte_of_a_state_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_sealed(path, _saved({"network": {"weight": torch.arange(20.0)}}))
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"state.pt (is damaged|has no checksum)"):
            read_state(path)


def _saved(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()
