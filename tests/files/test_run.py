from dataclasses import replace
from pathlib import Path

import pytest

from src.files.layout import Layout
from src.files.run import MEMBERS, Run

CLASSIFIERS, SEQUENCES, FOLDS, EPOCHS = ("x", "y"), {"gru": 12, "lstm": 12}, (0, 1), (2, 3)
SPLITS = ("valid", "test")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose classifiers have predicted everything, and whose sequence models have not begun."""
    run = Run(Layout(tmp_path), CLASSIFIERS, FOLDS, EPOCHS, SEQUENCES)
    for classifier in CLASSIFIERS:
        _predict(run, classifier, epochs=EPOCHS)
    return run


def _predict(
    run: Run,
    name: str,
    *,
    folds: tuple[int, ...] = FOLDS,
    splits: tuple[str, ...] = SPLITS,
    epochs: tuple[int, ...] = (12,),
) -> None:
    for fold in folds:
        for split in splits:
            for epoch in epochs:
                path = run.layout.fold(name, fold).predictions(split, epoch)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def _found(run: Run, split: str, members: str) -> tuple[set[str], int]:
    """What exists, as paths under model/, and how many there should be."""
    found, wanted = run.prediction_files(split, members)
    assert len(set(found)) == len(found)
    assert all(path.is_file() for path in found)
    return {path.relative_to(run.layout.root / "model").as_posix() for path in found}, wanted


def _of(*names: str, split: str = "test", folds: tuple[int, ...] = FOLDS, epochs: tuple[int, ...] = EPOCHS) -> set[str]:
    return {f"{name}/fold{fold}/{split}_epoch{epoch}.parquet" for name in names for fold in folds for epoch in epochs}


def _of_sequence(*names: str, split: str = "test", folds: tuple[int, ...] = FOLDS, epoch: int = 12) -> set[str]:
    return _of(*names, split=split, folds=folds, epochs=(epoch,))


@pytest.mark.parametrize("split", SPLITS)
def test_without_a_second_stage(run: Run, split: str) -> None:
    classifiers = _of("x", "y", split=split)
    assert _found(run, split, "cnn") == (classifiers, 8)
    assert _found(run, split, "last") == (classifiers, 8)  # it is the last stage that there is
    assert _found(run, split, "all") == (classifiers, 8)  # a sequence model that has not begun is not missed
    assert _found(run, split, "sequence") == (set(), 8)  # asked for by name it is
    assert run.incomplete_models() == []


@pytest.mark.parametrize("split", SPLITS)
def test_with_complete_sequence_models(run: Run, split: str) -> None:
    names = [f"{classifier}+{sequence}" for classifier in CLASSIFIERS for sequence in SEQUENCES]
    for name in names:
        _predict(run, name)
    classifiers, sequences = _of("x", "y", split=split), _of_sequence(*names, split=split)
    assert _found(run, split, "cnn") == (classifiers, 8)
    assert _found(run, split, "sequence") == (sequences, 8)
    assert _found(run, split, "last") == (sequences, 8)
    assert _found(run, split, "all") == (classifiers | sequences, 16)
    assert run.incomplete_models() == []


def test_each_classifier_has_a_last_stage_of_its_own(run: Run) -> None:
    _predict(run, "x+gru")
    assert _found(run, "test", "last") == (_of_sequence("x+gru") | _of("y"), 2 + 4)
    assert _found(run, "test", "all") == (_of("x", "y") | _of_sequence("x+gru"), 8 + 2)
    assert _found(run, "test", "sequence") == (_of_sequence("x+gru"), 8)


def test_of_several_sequence_models_the_complete_ones_are_the_last_stage(run: Run) -> None:
    _predict(run, "x+gru")
    _predict(run, "x+lstm", folds=(0,))
    assert _found(run, "test", "last") == (_of_sequence("x+gru") | _of("y"), 2 + 4)
    assert run.incomplete_models() == ["x+lstm"]
    _predict(run, "x+lstm", folds=(1,))
    assert _found(run, "test", "last") == (_of_sequence("x+gru", "x+lstm") | _of("y"), 4 + 4)
    assert run.incomplete_models() == []


@pytest.mark.parametrize(
    ("folds", "splits"), [((0,), SPLITS), (FOLDS, ("test",)), (FOLDS, ("valid",)), ((), ())], ids=str
)
def test_an_incomplete_sequence_model_is_not_the_last_stage(
    run: Run, folds: tuple[int, ...], splits: tuple[str, ...]
) -> None:
    run.layout.conf("x+gru").mkdir(parents=True)  # it has begun
    _predict(run, "x+gru", folds=folds, splits=splits)
    assert run.incomplete_models() == ["x+gru"]
    for split in SPLITS:
        predicted = _of_sequence("x+gru", split=split, folds=folds) if split in splits else set()
        assert _found(run, split, "last") == (_of("x", "y", split=split), 8)
        assert _found(run, split, "sequence") == (predicted, 8)
        assert _found(run, split, "all") == (_of("x", "y", split=split) | predicted, 8 + 2)  # what it lacks is missed


def test_a_sequence_model_that_was_not_asked_for_is_left_out(run: Run) -> None:
    _predict(run, "x+transformer")
    for members in MEMBERS:
        found, _ = run.prediction_files("test", members)
        assert not [path for path in found if "transformer" in str(path)]
    _predict(run, "x+gru")
    alone = Run(run.layout, ["y"], FOLDS, EPOCHS, SEQUENCES)
    for members in MEMBERS:
        found, _ = alone.prediction_files("test", members)
        assert not [path for path in found if "x" in path.parts[-3]]


def test_missing_files_are_counted(run: Run) -> None:
    for split in SPLITS:
        run.layout.fold("y", 1).predictions(split, 3).unlink()
    lacking = _of("y", folds=(1,), epochs=(3,))
    assert _found(run, "test", "cnn") == (_of("x", "y") - lacking, 8)
    assert _found(run, "test", "last") == (_of("x", "y") - lacking, 8)
    more = Run(run.layout, [*CLASSIFIERS, "z"], (*FOLDS, 2), (*EPOCHS, 4))
    assert _found(more, "test", "cnn") == (_of("x", "y") - lacking, 3 * 3 * 3)
    assert _found(Run(run.layout, ["z"], FOLDS, EPOCHS), "test", "last") == (set(), 4)


def test_a_folder_in_place_of_a_file_is_missing(run: Run) -> None:
    path = run.layout.fold("x", 0).predictions("test", 2)
    path.unlink()
    path.mkdir()
    assert _found(run, "test", "cnn") == (_of("x", "y") - _of("x", folds=(0,), epochs=(2,)), 8)


def test_a_sequence_model_predicts_by_its_last_epoch_whatever_else_lies_there(run: Run) -> None:
    _predict(run, "x+gru", epochs=(10, 12, 30))  # those of a conf with other epochs
    (run.layout.fold("x+gru", 0).path / "test_epoch5 (copy).parquet").touch()
    assert _found(run, "test", "last") == (_of_sequence("x+gru") | _of("y"), 6)
    shorter = replace(run, sequences={"gru": 10})
    assert _found(shorter, "test", "last") == (_of_sequence("x+gru", epoch=10) | _of("y"), 6)


def test_other_folds_of_a_run_do_not_make_a_sequence_model_incomplete(run: Run) -> None:
    _predict(run, "x+gru", folds=(0,))
    of_one = Run(run.layout, CLASSIFIERS, [0], EPOCHS, SEQUENCES)
    assert _found(of_one, "test", "last") == (_of_sequence("x+gru", folds=(0,)) | _of("y", folds=(0,)), 1 + 2)
    assert of_one.incomplete_models() == []


def test_a_classifiers_files_follow_each_other_fold_by_fold(run: Run) -> None:
    for name in ("x+gru", "x+lstm"):
        _predict(run, name)
    found, _ = run.prediction_files("valid", "all")
    names = [f"{path.parts[-3]} {path.parts[-2]} {path.stem}" for path in found]
    of_x = ["x {0} valid_epoch2", "x {0} valid_epoch3", "x+gru {0} valid_epoch12", "x+lstm {0} valid_epoch12"]
    of_y = ["y {0} valid_epoch2", "y {0} valid_epoch3"]
    expected = [each.format(f"fold{fold}") for own in (of_x, of_y) for fold in FOLDS for each in own]
    assert names == expected
