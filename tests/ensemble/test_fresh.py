from collections.abc import Callable
from pathlib import Path

import pytest

from src.ensemble.fresh import require_fresh
from src.errors import UserError
from src.files.checksum import file_sha256
from src.files.layout import Layout
from src.files.predictions import Predictions, write_predictions

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
def of_sequence(layout: Layout, make: Make) -> Callable[..., Path]:
    """A file of the sequence model's predictions, fresh but for what is changed in its provenance."""

    def _of_sequence(**changes: object) -> Path:
        recorded = {
            "conf": "net+gru",
            "fold": FOLD,
            "epoch": 12,
            "checkpoint": file_sha256(layout.fold("net+gru", FOLD).checkpoint(12)),
            "classifier": "net",
            "classifier_epoch": 3,
            "classifier_checkpoint": file_sha256(layout.fold("net", FOLD).checkpoint(3)),
        }
        return make(["ID_1"], 0.5, **(recorded | changes)).path

    return _of_sequence


OfSequence = Callable[..., Path]


def _refused(path: Path, layout: Layout, words: str, step: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        require_fresh([path], layout)
    assert str(error.value).startswith(f"{path} is stale")
    assert error.value.step == step


def test_predictions_by_the_checkpoints_that_are_there_are_fresh(
    layout: Layout, of_sequence: OfSequence, make: Make
) -> None:
    checkpoint = file_sha256(layout.fold("net", FOLD).checkpoint(2))
    of_classifier = make(["ID_1"], 0.5, conf="net", fold=FOLD, epoch=2, checkpoint=checkpoint).path
    require_fresh([of_sequence(), of_sequence(split="valid"), of_classifier], layout)


def test_a_classifier_that_was_trained_again_makes_its_sequence_models_stale(
    layout: Layout, of_sequence: OfSequence
) -> None:
    path = of_sequence()
    layout.fold("net", FOLD).checkpoint(2).write_bytes(b"another epoch")
    require_fresh([path], layout)
    layout.fold("net", FOLD).checkpoint(3).write_bytes(b"trained again")
    _refused(path, layout, r"over another checkpoint than .*net/fold1/epoch3.safetensors", "sequence")


def test_another_epochs_checkpoint_is_another(layout: Layout, of_sequence: OfSequence) -> None:
    _refused(of_sequence(classifier_epoch=2), layout, r"net/fold1/epoch2.safetensors", "sequence")


def test_a_network_that_was_trained_again_makes_its_own_predictions_stale(
    layout: Layout, of_sequence: OfSequence, make: Make
) -> None:
    _refused(of_sequence(checkpoint="before"), layout, r"with another checkpoint than .*net\+gru/fold1", "sequence")
    of_classifier = make(["ID_1"], 0.5, conf="net", fold=FOLD, epoch=2, checkpoint="before").path
    _refused(of_classifier, layout, r"with another checkpoint than .*net/fold1/epoch2", "predict")


def test_where_checkpoints_are_gone_nothing_is_refused(layout: Layout, of_sequence: OfSequence) -> None:
    path = of_sequence(classifier_checkpoint="gone")
    layout.fold("net", FOLD).checkpoint(3).unlink()  # that of another epoch is still there
    require_fresh([path], layout)


def test_a_plus_in_a_classifiers_name_means_nothing(layout: Layout, make: Make) -> None:
    path = make(["ID_1"], 0.5, conf="net+tuned", fold=FOLD, epoch=3, checkpoint="c").path
    require_fresh([path], layout)


def test_files_from_elsewhere_are_accepted(layout: Layout, tmp_path: Path, make: Make) -> None:
    made = make(["ID_1"], 0.5)
    write_predictions(tmp_path / "elsewhere.parquet", made.ids, made.probabilities)
    require_fresh([tmp_path / "elsewhere.parquet"], layout)
