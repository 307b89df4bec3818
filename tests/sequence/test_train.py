import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from src.classify.train import train as train_classifier
from src.config import Config, SequenceConfig
from src.ensemble.fresh import require_fresh
from src.errors import Stopped, UserError
from src.evaluate.score import weighted_log_loss
from src.files.checksum import file_sha256
from src.files.embeddings import Embeddings
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.labels import LABELS
from src.sequence import train as train_module
from src.sequence.checkpoint import SequenceMetadata, over_classifier
from src.sequence.predict import predict
from src.sequence.train import train
from src.train import epoch as epoch_module
from src.train import trainer
from src.train.checkpoint import read_metadata

Make = Callable[..., SequenceConfig]


@pytest.fixture
def layout(embedded: Layout, classifier: Config, tmp_path: Path) -> Iterator[Layout]:
    """A root with embeddings, to be written to."""
    for name in ("cache", f"model/{classifier.name}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(embedded.root / name)
    return Layout(tmp_path)


def test_it_leaves_what_a_classifier_leaves(
    layout: Layout, classifier: Config, sequence_config: SequenceConfig, preprocessed: Layout, tmp_path: Path
) -> None:
    train(sequence_config, classifier, 0, 3, layout)
    folder = layout.fold(f"{classifier.name}+gru", 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/cache").symlink_to(preprocessed.root / "cache")
    other = Layout(tmp_path / "other")
    train_classifier(classifier.model_copy(update={"epochs": 2}), 0, other)
    files = [{path.name for path in each.path.iterdir()} for each in (folder, other.fold(classifier.name, 0))]
    assert files[0] == files[1]
    metrics = [pd.read_csv(each.metrics) for each in (folder, other.fold(classifier.name, 0))]
    assert metrics[0].columns.tolist() == metrics[1].columns.tolist()
    assert metrics[0]["epoch"].tolist() == [1, 2]
    found = read_metadata(folder.checkpoint(2), SequenceMetadata)
    assert (found.conf, found.fold, found.epoch) == (f"{classifier.name}+gru", 0, 2)
    assert found.model == sequence_config.model.model_dump()
    assert found.model["name"] == "GRU"
    embeddings = Embeddings(layout.fold(classifier.name, 0).embeddings("train", 3))
    assert (found.order, found.dimensions, found.components) == ("z", embeddings.dimensions, None)
    assert found.classifier_epoch == 3
    assert found.classifier_checkpoint == file_sha256(layout.fold(classifier.name, 0).checkpoint(3))


def test_its_predictions_are_out_of_fold_and_of_the_test_set(
    layout: Layout, classifier: Config, sequence_config: SequenceConfig
) -> None:
    train(sequence_config, classifier, 1, 3, layout)
    predict(sequence_config, classifier, 1, ["valid", "test"], 3, layout)
    folder = layout.fold(f"{classifier.name}+gru", 1)
    valid, test = (read_predictions(folder.predictions(split, 2)) for split in ("valid", "test"))
    folds = pd.read_parquet(layout.folds).set_index("ID")["fold"]
    assert set(valid.ids) == set(folds.index[folds == 1])
    assert set(test.ids) == set(pd.read_parquet(layout.store("test") / "index.parquet")["ID"])
    targets = pd.read_parquet(layout.table("train")).set_index("ID").loc[valid.ids, list(LABELS)].to_numpy()
    loss = weighted_log_loss(targets, valid.probabilities)
    assert loss == pytest.approx(pd.read_csv(folder.metrics)["valid"].iloc[-1], rel=1e-5)
    for each, split in ((valid, "valid"), (test, "test")):
        assert each.provenance is not None
        assert each.provenance.split == split
        assert each.provenance.checkpoint == file_sha256(folder.checkpoint(2))
        assert each.provenance.classifier_checkpoint == file_sha256(layout.fold(classifier.name, 1).checkpoint(3))
    require_fresh([valid.path, test.path], layout)
    before = {path: path.stat().st_mtime_ns for path in folder.path.glob("*.parquet")}
    predict(sequence_config, classifier, 1, ["valid", "test"], 3, layout)
    assert {path: path.stat().st_mtime_ns for path in folder.path.glob("*.parquet")} == before


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
@pytest.mark.parametrize("when", ["start", "middle", "validation"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    layout: Layout,
    classifier: Config,
    make_sequence_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    when: str,
) -> None:
    config = make_sequence_config(kind, "save_steps=2", "ema_decay=0.9")
    folder = layout.fold(over_classifier(config, classifier).name, 0)
    train(config, classifier, 0, 3, layout)
    whole = [file_sha256(folder.checkpoint(epoch)) for epoch in (1, 2)]
    metrics = pd.read_csv(folder.metrics)
    shutil.rmtree(folder.path)
    where, name, which = {
        "start": (trainer, "train_epoch", 2),
        "middle": (epoch_module, "weighted_bce", 6),
        "validation": (train_module, "predict_series", 2),
    }[when]
    real, calls = getattr(where, name), []

    def stop(*args: object, **how: object) -> object:
        calls.append(None)
        if len(calls) == which:
            raise Stopped("pulled the plug")
        return real(*args, **how)

    monkeypatch.setattr(where, name, stop)
    with pytest.raises(Stopped):
        train(config, classifier, 0, 3, layout)
    assert not folder.checkpoint(2).exists()
    train(config, classifier, 0, 3, layout)
    assert [file_sha256(folder.checkpoint(epoch)) for epoch in (1, 2)] == whole
    scores = [name for name in metrics if name not in ("images_per_second", "waiting_fraction")]
    pd.testing.assert_frame_equal(pd.read_csv(folder.metrics)[scores], metrics[scores])


def test_a_finished_fold_is_left_and_another_conf_refused(
    layout: Layout, classifier: Config, make_sequence_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_sequence_config()
    train(config, classifier, 0, 3, layout)
    train(make_sequence_config("gru", "workers=1"), classifier, 0, 3, layout)
    assert "trained already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"was begun with another model.width .* or delete .*gru.fold0 to train anew"):
        train(make_sequence_config("gru", "model.width=16"), classifier, 0, 3, layout)
    with pytest.raises(UserError, match="was begun with another order"):
        train(make_sequence_config("gru", "order=shuffled"), classifier, 0, 3, layout)
    with pytest.raises(
        UserError, match=r"epoch2.safetensors was trained with another conf or on other embeddings"
    ) as other_conf:
        predict(make_sequence_config("gru", "order=shuffled"), classifier, 0, ["valid"], 3, layout)
    with pytest.raises(UserError, match=r"fold1/epoch2.safetensors is missing") as missing:
        predict(config, classifier, 1, ["valid"], 3, layout)
    assert other_conf.value.step == missing.value.step == "sequence"
    shutil.copytree(layout.fold(f"{classifier.name}+gru", 0).path, layout.fold(f"{classifier.name}+gru", 1).path)
    with pytest.raises(UserError, match=r"fold1/epoch2.safetensors was trained with another conf or on other"):
        predict(config, classifier, 1, ["valid"], 3, layout)


def test_mistakes_are_named(layout: Layout, classifier: Config, make_sequence_config: Make) -> None:
    with pytest.raises(UserError, match="batch_size 50 is larger than fold 0's 7 series"):
        train(make_sequence_config("gru", "batch_size=50"), classifier, 0, 3, layout)
    with pytest.raises(UserError, match=r"fold0/embeddings_train_epoch2.npy is missing") as missing:
        train(make_sequence_config(), classifier, 0, 2, layout)
    assert missing.value.step == "sequence"
    with pytest.raises(UserError, match=r"fold4/embeddings_train_epoch3.npy is missing"):
        train(make_sequence_config(), classifier, 4, 3, layout)


def test_two_processes_do_as_one(
    networks: Layout,
    classifier: Config,
    make_sequence_config: Make,
    repository: Path,
    python: str,
    tmp_path: Path,
) -> None:
    # without chance inside the network, whose numbers differ from process to process
    quiet = ["dropout=0", "embedding_dropout=0", "logit_dropout=0", "logit_noise=0", "batch_size=2"]
    config = make_sequence_config("gru", *quiet)
    confs = {}
    for conf in (config, classifier):
        confs[conf.name] = str(tmp_path / f"{conf.name}.yaml")
        values = conf.model_dump(mode="json", exclude={"name"})
        Path(confs[conf.name]).write_text(yaml.safe_dump(values))
    found = []
    for processes in (1, 2):
        layout = Layout(tmp_path / str(processes))
        folders = layout.fold(classifier.name, 0), layout.fold(f"{classifier.name}+gru", 0)
        folders[0].path.mkdir(parents=True)
        (layout.root / "cache").symlink_to(networks.root / "cache")
        folders[0].checkpoint(3).symlink_to(networks.fold(classifier.name, 0).checkpoint(3))
        arguments_of_both = [confs[config.name], "--classifier", confs[classifier.name]]
        for arguments in (
            ["src.sequence.embed", confs[classifier.name], "--epoch", "3"],
            ["src.sequence.train", *arguments_of_both],
            ["src.sequence.predict", *arguments_of_both, "--split", "valid"],
        ):
            launch = ["src.train.launch", str(processes)] if processes > 1 else []
            command = [python, "-m", *launch, *arguments, "--fold", "0", "--root", str(layout.root)]
            result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
        embeddings = Embeddings(folders[0].embeddings("train", 3))
        metrics = pd.read_csv(folders[1].metrics)[["train", "valid"]]
        found.append(
            (*embeddings.read(0, len(embeddings)), metrics, read_predictions(folders[1].predictions("valid", 2)))
        )
    alone, together = found
    for one, other in zip(alone[:2], together[:2], strict=True):  # logits, embeddings
        np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(together[2], alone[2], rtol=1e-3)
    assert together[3].ids.tolist() == alone[3].ids.tolist()
    np.testing.assert_allclose(together[3].probabilities, alone[3].probabilities, rtol=1e-2)
