"""What the second stage is for: neighbours in order help, neighbours in any order less. On embeddings made up here."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit

from src.config import SequenceConfig
from src.evaluate.intervals import PLAIN, PatientRatios, interval, jackknife
from src.evaluate.score import log_losses
from src.files.embeddings import Embeddings, EmbeddingWriter
from src.files.layout import Layout
from src.files.provenance import Provenance
from src.labels import WEIGHTS
from src.sequence.series import EmbeddedSlices, SlicesBySeries, make_series_loader, predict_series
from src.sequence.train import SequenceTask
from src.train.checkpoint import load_checkpoint
from src.train.distributed import make_accelerator
from src.train.trainer import fit

SERIES, LENGTH, DIMENSIONS, PREVALENCE = 240, 16, 8, 6 / 16


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedSlices:
    """Series with one bleed of six slices that follow each other, of which each slice by itself shows a little.

    Each series is a patient; what a classifier can say of a slice alone is its exact posterior.
    """
    rng = np.random.default_rng(0)
    first = rng.integers(0, LENGTH - 5, SERIES)[:, None]
    slices = np.arange(LENGTH)[None]
    bleeds = ((slices >= first) & (slices < first + 6)).ravel()
    signal = bleeds + rng.normal(0, 1, len(bleeds))
    logits = np.repeat((signal - 0.5 + logit(PREVALENCE))[:, None], 6, axis=1)
    embeddings = signal[:, None] * rng.normal(size=DIMENSIONS) + 0.1 * rng.normal(size=(len(bleeds), DIMENSIONS))
    path = tmp_path_factory.mktemp("made up") / "e.npy"
    provenance = Provenance(
        conf="cnn",
        fold=0,
        epoch=3,
        checkpoint="c",
        data_fingerprint="t",
        split="train",
        slices="s",
        tta="Identity",
    )
    writer = EmbeddingWriter(path, provenance, len(bleeds), DIMENSIONS)
    writer.open_at(0)
    writer.add(logits, embeddings)
    writer.save()
    writer.close()
    by_series = SlicesBySeries(
        SimpleNamespace(ids=[f"ID_{i:x}" for i in range(len(bleeds))]),  # type: ignore[arg-type]
        np.tile(np.arange(LENGTH) * 5.0, SERIES),
        np.arange(SERIES + 1) * LENGTH,
        np.repeat(bleeds[:, None], 6, axis=1).astype(np.uint8),
        np.repeat(np.arange(SERIES) % 2, LENGTH),
    )
    return EmbeddedSlices(by_series, Embeddings(path), 0)


def _losses(embedded: EmbeddedSlices, probabilities: np.ndarray) -> np.ndarray:
    """The metric of each held-out slice."""
    assert embedded.slices.targets is not None
    each = log_losses(embedded.slices.targets[embedded.unseen], probabilities)
    averaged: np.ndarray = np.average(each, axis=1, weights=WEIGHTS)
    return averaged


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of how much more `one` loses than `other`, as a fraction of the latter."""
    patients = np.repeat(np.arange(len(one) // LENGTH), LENGTH)
    ratio = PatientRatios((one - other)[:, None], other[:, None], patients)
    n_patients = int(patients[-1]) + 1
    value = ratio(np.ones(n_patients, dtype=np.int64))
    (low,), (high,) = interval(value, jackknife(ratio, n_patients), PLAIN, n_patients)
    return low, high


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
def test_order_is_what_helps(
    made_up: EmbeddedSlices, make_sequence_config: Callable[..., SequenceConfig], tmp_path: Path, kind: str
) -> None:
    settings = [
        "batch_size=8",
        "epochs=6",
        "scheduler.milestones=[5]",
        "optimizer.lr=1e-2",
        "ema_decay=0.9",
        "model.width=16",
        "model.layers=1",
    ]
    settings += ["dropout=0", "embedding_dropout=0", "logit_dropout=0", "logit_noise=0"]
    tasks, predicted = {}, {}
    for order in ("z", "shuffled"):
        config = make_sequence_config(kind, *settings, f"order={order}")
        tasks[order] = SequenceTask(config, made_up, Layout(tmp_path / order))
        kept: list[np.ndarray] = []
        validate = tasks[order].validate

        def keep(*given: object, kept: list[np.ndarray] = kept, validate: Callable = validate) -> np.ndarray:
            kept.append(validate(*given))
            return kept[-1]

        tasks[order].validate = keep  # type: ignore[method-assign]
        fit(tasks[order])
        predicted[order] = kept[-1]
    classifier = _losses(made_up, expit(made_up.embeddings.read(0, SERIES * LENGTH)[0])[made_up.unseen])
    ordered, shuffled = _losses(made_up, predicted["z"]), _losses(made_up, predicted["shuffled"])
    assert _difference(ordered, classifier)[1] < -0.08
    assert _difference(ordered, shuffled)[1] < -0.05  # the gain shrinks, though it was trained so
    assert ordered.mean() < shuffled.mean() < 1.02 * classifier.mean()

    # and a network that was trained in order does not see its neighbours where they were put elsewhere
    network, accelerator = tasks["z"].build(fresh=True), make_accelerator("none")
    load_checkpoint(tasks["z"].folder.checkpoint(6), network)
    again = []
    for order in ("shuffled", "z"):
        config = tasks["z"].config.model_copy(update={"order": order})
        loader = make_series_loader(config, made_up, unseen=True)
        again.append(predict_series(accelerator, network, loader, SERIES * LENGTH, "")[made_up.unseen])
    assert _difference(_losses(made_up, again[0]), ordered)[0] > 0.05
    np.testing.assert_allclose(again[1], predicted["z"], atol=1e-6)  # restored
