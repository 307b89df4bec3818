import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from src.classify.checkpoint import ClassifierMetadata
from src.classify.dataset import EvalDataset, read_fold_split
from src.classify.network import build_network
from src.classify.predict import predict
from src.config import Config, dump_config
from src.errors import Stopped, UserError
from src.files.checksum import file_sha256, write_sealed
from src.files.embeddings import Embeddings
from src.files.image_store import ImageStore
from src.files.layout import Layout
from src.files.predictions import read_predictions
from src.files.tables import write_table
from src.sequence import embed as embed_module
from src.sequence.components import TooManyComponents, fit_components
from src.sequence.embed import EmbeddingSink, NotEnoughDisk, embed
from src.sequence.series import read_embedded_slices, read_slices_by_series
from src.train.checkpoint import load_checkpoint, read_data_fingerprint, save_checkpoint


@pytest.fixture
def layout(networks: Layout, tmp_path: Path) -> Layout:
    """A root with checkpoints, to be written to."""
    (tmp_path / "cache").symlink_to(networks.root / "cache")
    for path in networks.root.glob("model/*/fold*/*.safetensors"):
        copy = tmp_path / path.relative_to(networks.root)
        copy.parent.mkdir(parents=True)
        copy.symlink_to(path)
    return Layout(tmp_path)


def _files(layout: Layout) -> dict[str, bytes]:
    return {path.name + path.parent.name: path.read_bytes() for path in layout.root.glob("model/*/fold*/*.npy")}


def _by_hand(layout: Layout, config: Config, fold: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(mean probabilities, mean embeddings) over the two views, slice by slice in series order."""
    network = build_network(config).eval()
    load_checkpoint(layout.fold(config.name, fold).checkpoint(3), network)
    inputs = read_slices_by_series(layout, split).inputs
    images = torch.stack([image for _, image in EvalDataset(inputs, config)])  # type: ignore[attr-defined]
    views = (images, images.flip(-1))
    with torch.inference_mode():
        probabilities = torch.stack([network(view).sigmoid() for view in views]).mean(dim=0)
        features = torch.stack(
            [
                network.backbone.forward_head(  # timm's own way
                    network.backbone.forward_features((network.windows(view) - network.mean) / network.std),
                    pre_logits=True,
                )
                for view in views
            ]
        ).mean(dim=0)
    return probabilities.numpy(), features.numpy()


@pytest.mark.parametrize(("fold", "split"), [(0, "train"), (1, "train"), (1, "test")])
def test_embeddings_are_the_networks_own(embedded: Layout, classifier: Config, fold: int, split: str) -> None:
    found = Embeddings(embedded.fold(classifier.name, fold).embeddings(split, 3))
    logits, embeddings = found.read(0, len(found))
    probabilities, features = _by_hand(embedded, classifier, fold, split)
    np.testing.assert_allclose(expit(logits), probabilities, atol=1e-5)
    np.testing.assert_allclose(embeddings, features, rtol=1e-3, atol=1e-3)
    assert found.provenance.checkpoint == file_sha256(embedded.fold(classifier.name, fold).checkpoint(3))


def test_logits_are_what_prediction_says(layout: Layout, classifier: Config) -> None:
    embed(classifier, [0], 3, layout)
    predict(classifier, [0], ["valid", "test"], [3], layout)
    for split, ours in (("valid", "train"), ("test", "test")):
        embedded = read_embedded_slices(classifier, 0, 3, layout, ours)
        logits, _ = embedded.embeddings.read(0, len(embedded.embeddings))
        said = pd.DataFrame(expit(logits), index=embedded.slices.ids)
        predicted = read_predictions(layout.fold(classifier.name, 0).predictions(split, 3))
        assert set(np.array(embedded.slices.ids)[embedded.unseen]) == set(predicted.ids)
        np.testing.assert_allclose(said.loc[predicted.ids], predicted.probabilities, atol=1e-6)


def test_every_slice_is_decoded_once_for_all_networks(
    layout: Layout, classifier: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[tuple[str, int]] = Counter()
    real = ImageStore.read

    def counted(store: ImageStore, row: int) -> np.ndarray:
        reads[store.folder.name, int(row)] += 1
        return real(store, row)

    monkeypatch.setattr(ImageStore, "read", counted)
    embed(classifier, [0, 1], 3, layout)
    stored = {split: len(ImageStore(layout.store(split))) for split in ("train", "test")}
    in_folds = len(pd.read_parquet(layout.folds))
    assert set(reads.values()) == {1}
    assert Counter(split for split, _ in reads) == {"train": in_folds, "test": stored["test"]}
    assert in_folds <= stored["train"]


def test_groups_of_networks_and_further_folds_give_the_same(
    layout: Layout, embedded: Layout, classifier: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(classifier, [1], 3, layout)
    capsys.readouterr()
    embed(classifier, [0, 1], 3, layout, at_once=1)
    said = capsys.readouterr().out
    assert f"{classifier.name} train embeddings, checkpoint 1 of 1: " in said  # that of fold 0 alone was left
    assert f"{classifier.name} test embeddings, checkpoint 1 of 1: " in said
    assert _files(layout) == _files(embedded)
    before = {path: path.stat().st_mtime_ns for path in layout.root.glob("model/*/fold*/*")}
    embed(classifier, [0, 1], 3, layout)
    assert {path: path.stat().st_mtime_ns for path in layout.root.glob("model/*/fold*/*")} == before
    said = capsys.readouterr().out
    for split in ("train", "test"):
        assert f"{classifier.name} {split} embeddings: those of epoch 3 are there already" in said


@pytest.mark.parametrize(
    ("after", "save_s"), [(2, 0.0), (2, 1e9), (7, 0.0)], ids=["train saved", "train stopped", "test saved"]
)
def test_an_interrupted_run_goes_on(
    layout: Layout,
    embedded: Layout,
    classifier: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: int,
    save_s: float,
) -> None:
    real, seen = embed_module.logits_and_embedding, []

    def stop(*args: object) -> torch.Tensor:
        seen.append(None)
        if len(seen) > 2 * after:  # two networks
            raise Stopped("pulled the plug")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(embed_module, "logits_and_embedding", stop)
    with pytest.raises(Stopped):
        embed(classifier, [0, 1], 3, layout, save_s=save_s)
    assert len(seen) == 2 * after + 1
    monkeypatch.setattr(embed_module, "logits_and_embedding", real)
    capsys.readouterr()
    embed(classifier, [0, 1], 3, layout)
    assert _files(layout) == _files(embedded)
    left = len(pd.read_parquet(layout.folds)) - after * classifier.batch_size
    assert (f"{classifier.name} train embeddings, checkpoints 1 to 2 of 2: " in capsys.readouterr().out) == (left > 0)


def test_a_network_of_another_fold_is_refused(layout: Layout, classifier: Config, tmp_path: Path) -> None:
    zero, one = (layout.fold(classifier.name, fold).checkpoint(3) for fold in (0, 1))
    zero.unlink()
    shutil.copy(one, zero)
    with pytest.raises(UserError, match=r"fold0/epoch3.safetensors was trained with fold 1, expected 0"):
        embed(classifier, [0], 3, layout)
    # one that says that it is of fold 0, but saw what fold 1 leaves
    network = build_network(classifier)
    save_checkpoint(zero, network, ClassifierMetadata.of(classifier, 0, 3, read_data_fingerprint(one)))
    with pytest.raises(
        UserError, match=r"epoch3.safetensors was trained on other slices, .* would not be out of fold"
    ) as seen:
        embed(classifier, [0], 3, layout)
    with pytest.raises(UserError, match=r"epoch2.safetensors is missing") as missing:
        embed(classifier, [1], 2, layout)
    assert seen.value.step == missing.value.step == "train"
    with pytest.raises(UserError, match="there is no fold 7"):
        embed(classifier, [7], 3, layout)


def test_embeddings_of_another_fold_are_refused(
    layout: Layout, embedded: Layout, classifier: Config, tmp_path: Path
) -> None:
    for fold in (0, 1):
        for path in embedded.fold(classifier.name, 1 - fold).path.glob("embeddings*"):  # swapped
            shutil.copy(path, layout.fold(classifier.name, fold).path)
    with pytest.raises(UserError, match=r"embeddings_train_epoch3.npy is of fold 1, expected 0") as of_another:
        read_embedded_slices(classifier, 0, 3, layout, "train")
    assert of_another.value.step == "sequence"
    for split in ("train", "test"):  # and a note that lies
        note = layout.fold(classifier.name, 0).embeddings(split, 3).with_suffix(".json")
        text = re.sub(
            r"(sealed-xxh3-64:)\w{16}", rf"\g<1>{'0' * 16}", note.read_text().replace('"fold": 1', '"fold": 0')
        )
        write_sealed(note, text.encode())
        with pytest.raises(UserError, match="may have seen held-out slices") as seen:
            read_embedded_slices(classifier, 0, 3, layout, split)
        assert seen.value.step == "train"


def test_other_folds_make_embeddings_useless(embedded: Layout, classifier: Config, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for path in (embedded.root / "cache").iterdir():
        (tmp_path / "cache" / path.name).symlink_to(path)
    (tmp_path / "model").symlink_to(embedded.root / "model")
    other = Layout(tmp_path)
    folds = pd.read_parquet(other.folds)
    other.folds.unlink()
    write_table(folds.assign(fold=(folds["fold"] + 1) % 5), other.folds)
    for split in ("train", "test"):
        with pytest.raises(UserError, match="may have seen held-out slices"):
            read_embedded_slices(classifier, 0, 3, other, split)


def test_what_is_held_out_was_embedded_by_a_network_that_did_not_see_it(embedded: Layout, classifier: Config) -> None:
    for fold in (0, 1):
        of_fold = read_embedded_slices(classifier, fold, 3, embedded, "train")
        _, features = _by_hand(embedded, classifier, fold, "train")
        rows = np.flatnonzero(of_fold.unseen)
        read = np.concatenate([of_fold.embeddings.read(row, row + 1)[1] for row in rows])
        np.testing.assert_allclose(read, features[rows], rtol=1e-3, atol=1e-3)
        training, validation = read_fold_split(embedded, fold)
        checkpoint = embedded.fold(classifier.name, fold).checkpoint(3)
        assert read_data_fingerprint(checkpoint) == training.fingerprint()
        assert {of_fold.slices.ids[row] for row in rows} == set(validation.ids)


def test_components_are_those_of_training_slices(
    layout: Layout, embedded: Layout, classifier: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(classifier, [0, 1], 3, layout, components=5)
    assert "a sample for principal components" in capsys.readouterr().out
    for fold in (0, 1):
        of_fold = {split: read_embedded_slices(classifier, fold, 3, embedded, split) for split in ("train", "test")}
        whole = {split: each.embeddings.read(0, len(each.embeddings))[1] for split, each in of_fold.items()}
        seen = whole["train"][~of_fold["train"].unseen].astype(np.float64)
        axes = np.linalg.svd(seen - seen.mean(axis=0), full_matrices=False)[2][:5]
        for split in ("train", "test"):
            reduced = read_embedded_slices(classifier, fold, 3, layout, split).embeddings
            assert (reduced.dimensions, reduced.provenance.components) == (5, 5)
            logits, found = reduced.read(0, len(reduced))
            np.testing.assert_array_equal(logits, of_fold[split].embeddings.read(0, len(reduced))[0])
            expected = (whole[split] - seen.mean(axis=0)) @ axes.T
            np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0.02, atol=0.02)  # a sign is open
    kept = _files(layout)
    for path in layout.root.glob("model/*/fold*/embeddings_train*.npy"):
        path.unlink()
    capsys.readouterr()
    embed(classifier, [0, 1], 3, layout, components=5)
    assert "a sample for principal components" not in capsys.readouterr().out  # they were there still
    assert _files(layout) == kept


def test_too_many_components_are_refused() -> None:
    numbers = np.random.default_rng(0).normal(size=(20, 8))
    assert fit_components(numbers, 8).axes.shape == (8, 8)
    with pytest.raises(
        TooManyComponents,
        match="9 principal components: 20 training slices with embeddings of 8 numbers have 8 at most",
    ):
        fit_components(numbers, 9)


def test_a_disk_too_small_is_told_beforehand(
    layout: Layout, classifier: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n = len(pd.read_parquet(layout.folds)) + len(ImageStore(layout.store("test")))
    monkeypatch.setattr(embed_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * n * (256 * 2 + 24)))
    embed(classifier, [0, 1], 3, layout)
    assert f"{2 * n} embeddings of 256 numbers take" in capsys.readouterr().out
    for path in layout.root.glob("model/*/fold*/embeddings*"):
        path.unlink()
    free = SimpleNamespace(free=2 * n * (256 * 2 + 24) - 1)
    monkeypatch.setattr(embed_module.shutil, "disk_usage", lambda path: free)
    with pytest.raises(NotEnoughDisk, match=r"take 0.00 GB, and .* has 0.00 GB free$"):
        embed(classifier, [0, 1], 3, layout)
    assert not list(layout.root.glob("model/*/fold*/embeddings*"))
    embed(classifier, [0, 1], 3, layout, components=5)


@pytest.fixture
def command(layout: Layout, classifier: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the command on fold 0, in this process."""
    conf = layout.root / "conf.yaml"
    conf.write_text(dump_config(classifier))

    def _command(*arguments: str) -> None:
        line = ["embed", str(conf), "--fold", "0", "--root", str(layout.root), *arguments]
        monkeypatch.setattr(sys, "argv", line)
        embed_module.main()

    return _command


def test_the_command_says_what_to_do(
    command: Callable[..., None], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TooManyComponents, match=r"400 principal components: .* at most; give a smaller --pca \(PCA\)$"):
        command("--pca", "400")
    monkeypatch.setattr(embed_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(NotEnoughDisk, match=r"GB free; make room, or reduce them: --pca 256 \(PCA=256\)$"):
        command()
    assert not list(layout.root.glob("model/*/fold*/embeddings*"))


@pytest.mark.parametrize("save_s", [0.0, 1e9], ids=["after each batch", "at the end"])
def test_embeddings_are_saved_as_often_as_asked(
    layout: Layout, classifier: Config, monkeypatch: pytest.MonkeyPatch, save_s: float
) -> None:
    real, saved = EmbeddingSink.save, []

    def save(sink: EmbeddingSink) -> None:
        saved.append(sink.done)
        real(sink)

    monkeypatch.setattr(EmbeddingSink, "save", save)
    embed(classifier, [0, 1], 3, layout, save_s=save_s)
    sizes = [len(pd.read_parquet(layout.folds)), len(ImageStore(layout.store("test")))]
    batches = [[*range(classifier.batch_size, size, classifier.batch_size), size] for size in sizes]
    between = [done for each in batches for done in (*each, each[-1])]
    assert saved == (between if save_s == 0 else sizes)
