from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from src.ensemble.fresh import require_fresh
from src.errors import UserError
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import Predictions

Make = Callable[..., Predictions]
FOLD = 1


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A root with checkpoints of one fold: of the classifier `net`, epochs 2 and 3, and of a sequence model over it."""
    layout = Layout(tmp_path)
    for name, epochs in (("net", (2, 3)), ("net+gru", (12,))):
        for epoch in epochs:
            path = layout.fold(name, FOLD).checkpoint(epoch)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"weights of {name} {epoch}".encode())
    return layout


@pytest.fixture
def over(make: Make) -> Callable[..., Predictions]:
    """Predictions of the sequence model over a checkpoint of the classifier."""

    def _over(classifier_checkpoint: str | None, **more: object) -> Predictions:
        recorded = {"conf": "net+gru", "fold": FOLD, "epoch": 12, "classifier_checkpoint": classifier_checkpoint}
        return make(["ID_1"], 0.5, **(recorded | more))

    return _over


Over = Callable[..., Predictions]


@pytest.mark.parametrize("epoch", [2, 3])
def test_predictions_over_a_checkpoint_that_is_there_are_fresh(layout: Layout, over: Over, epoch: int) -> None:
    sha256 = file_sha256(layout.fold("net", FOLD).checkpoint(epoch))
    require_fresh([over(sha256), over(sha256, split="valid")], layout)


def _refused(predictions: list[Predictions], layout: Layout, culprit: Predictions) -> None:
    with pytest.raises(UserError, match="is stale: it was predicted over another checkpoint") as error:
        require_fresh(predictions, layout)
    assert str(error.value).startswith(f"{culprit.path} ")
    assert str(layout.fold("net", FOLD).path) in str(error.value)
    assert error.value.step == "sequence"
    assert error.value.in_one_line().endswith("; run sh bin/sequence.sh")


def test_predictions_over_a_classifier_that_was_trained_again_are_refused(layout: Layout, over: Over) -> None:
    checkpoint = layout.fold("net", FOLD).checkpoint(3)
    fresh = over(file_sha256(layout.fold("net", FOLD).checkpoint(2)))
    stale = over(file_sha256(checkpoint), split="valid")
    require_fresh([fresh, stale], layout)
    checkpoint.write_bytes(b"other weights")
    _refused([fresh, stale], layout, stale)


def test_checkpoints_of_another_fold_or_classifier_do_not_count(layout: Layout, over: Over) -> None:
    for name, fold in (("net", 0), ("other", FOLD), ("net+gru", 0)):
        path = layout.fold(name, fold).checkpoint(3)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} {fold}".encode())
        stale = over(file_sha256(path))
        _refused([stale], layout, stale)
    own = layout.fold("net+gru", FOLD).checkpoint(12)  # the sequence model's own checkpoint is no classifier's
    stale = over(file_sha256(own))
    _refused([stale], layout, stale)


def test_a_file_that_does_not_record_the_classifier_is_refused(layout: Layout, over: Over) -> None:
    # as earlier versions wrote it: nobody can know
    stale = over(None)
    _refused([stale], layout, stale)


def test_where_checkpoints_are_gone_nothing_is_refused(layout: Layout, over: Over) -> None:
    predictions = [over("unknown"), over(None, split="valid")]
    for path in layout.fold("net", FOLD).path.iterdir():
        path.unlink()
    require_fresh(predictions, layout)
    layout.fold("net", FOLD).path.rmdir()
    require_fresh(predictions, layout)


def test_a_classifiers_own_predictions_and_files_from_elsewhere_are_not_compared(layout: Layout, make: Make) -> None:
    own = make(["ID_1"], 0.5, fold=FOLD, checkpoint="of other weights")
    require_fresh([own, replace(own, provenance=None)], layout)


def test_a_classifier_may_have_a_plus_in_its_name(layout: Layout, over: Over) -> None:
    path = layout.fold("a+b", FOLD).checkpoint(3)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    require_fresh([over(file_sha256(path), conf="a+b+gru")], layout)
    with pytest.raises(UserError, match="is stale"):
        require_fresh([over("other", conf="a+b+gru")], layout)
