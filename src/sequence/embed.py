"""Embed all slices, train and test, by one classifier's networks of some folds: what a sequence model reads of them.

Each slice is read and decoded once for all of these networks.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from src.arguments import Parser, positive
from src.classify.checkpoint import check_checkpoint, check_unseen
from src.classify.dataset import read_folds
from src.classify.jobs import Job, JobGroup
from src.classify.network import Network, build_network, require_embeddings
from src.classify.predict import add_inference_arguments
from src.classify.predictor import SAVE_S, NoSink, Predictor, Sink, run_jobs
from src.classify.tta import tta_name
from src.config import Config, load_config
from src.errors import NotEnoughDisk, advising, run_command
from src.evaluate.score import CLIP
from src.files.checksum import file_sha256
from src.files.embeddings import EmbeddingWriter, is_finished, record
from src.files.layout import Layout
from src.files.provenance import Provenance
from src.files.timing import recorder
from src.labels import LABELS
from src.sequence.components import (
    PrincipalComponents,
    TooManyComponents,
    fit_components,
    read_components,
    write_components,
)
from src.sequence.series import SlicesBySeries, read_slices_by_series
from src.train.checkpoint import read_data_fingerprint
from src.train.distributed import folder_of_one_run, leaving_together, make_accelerator
from src.train.errors import errors_explained

_log = logging.getLogger(__name__)

SPLITS = ("train", "test")
FITTED_ON = 12_500  # slices that components are fitted on, less those of the fold


def embed(
    config: Config,
    folds: Sequence[int],
    epoch: int,
    layout: Layout,
    *,
    components: int | None = None,
    at_once: int | None = None,
    save_s: float = SAVE_S,
) -> None:
    """Write embeddings of the training set (all folds) and of the test set by the network of each of `folds`.

    Files with the same provenance are left as they are; an interrupted run goes on after its last save. components: the
    number of principal components that embeddings are reduced to, fitted on each network's training slices; None for
    no reduction. at_once, save_s: see `run_jobs`. Raises UserError for checkpoints that are missing, of another conf,
    or trained on other slices than their fold leaves them; NotEnoughDisk where the disk is too small.
    """
    _check_networks(config, folds, epoch, layout)
    accelerator = make_accelerator(config.precision)
    network = build_network(config, pretrained="none")
    require_embeddings(network, config.image_size, 2 * config.neighbours + 1)
    dimensions = components or network.classifier.in_features
    del network
    with folder_of_one_run(accelerator, layout.conf(config.name)):
        by_split = {split: read_slices_by_series(layout, split, config.neighbours) for split in SPLITS}
        groups = [_group(config, folds, epoch, layout, split, by_split[split], components) for split in SPLITS]
        _check_disk(groups, dimensions, layout)
        accelerator.wait_for_everyone()  # all processes must know what is due before one writes

        @contextmanager
        def open_sink(jobs: Sequence[Job], predictor: Predictor) -> Iterator[Sink]:
            projections = _projections(jobs, predictor, by_split["train"], layout) if components else None
            if not accelerator.is_main_process:
                yield NoSink()
                return
            n_slices = len(by_split[jobs[0].provenance.split].ids)
            sink = EmbeddingSink(
                [EmbeddingWriter(job.output, job.provenance, n_slices, dimensions) for job in jobs], projections
            )
            try:
                yield sink
            finally:
                sink.close()

        for group in groups:
            if not group.due:
                _log.info("%s: those of epoch %d are there already", group.name, epoch)
                continue
            more: dict[str, Any] = {"output": logits_and_embedding, "at_once": at_once, "save_s": save_s}
            run_jobs(config, accelerator, group, open_sink, on_done=recorder(layout.timings, "embed"), **more)


def logits_and_embedding(network: nn.Module, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logits of a network's mean probabilities, and its mean embedding, over the views of a batch: (N, 6 + D)."""
    assert isinstance(network, Network)  # noqa: S101 - what `load_networks` gives
    embeddings = [network.forward_head(network.forward_features(images), pre_logits=True) for images in views]
    probabilities = torch.stack([network.classifier(each).float().sigmoid() for each in embeddings]).mean(dim=0)
    mean_embedding = torch.stack(embeddings).float().mean(dim=0)
    return torch.cat([torch.logit(probabilities, eps=CLIP), mean_embedding], dim=1)


class EmbeddingSink:
    """Embedding files of K networks. projections: by which their embeddings are reduced; None for not at all."""

    def __init__(
        self, writers: Sequence[EmbeddingWriter], projections: Sequence[PrincipalComponents] | None = None
    ) -> None:
        self._writers, self._projections = writers, projections
        self.done = min(writer.done for writer in writers)
        for writer in writers:
            writer.open_at(self.done)

    def add(self, outputs: np.ndarray) -> None:
        """Write the outputs of `logits_and_embedding` for the slices that follow: (K, n, 6 + D)."""
        for k, (writer, output) in enumerate(zip(self._writers, outputs, strict=True)):
            logits, embeddings = output[:, : len(LABELS)], output[:, len(LABELS) :]
            writer.add(logits, embeddings if self._projections is None else self._projections[k](embeddings))
        self.done += outputs.shape[1]

    def save(self) -> None:
        """Make durable what was added."""
        for writer in self._writers:
            writer.save()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()


def _check_networks(config: Config, folds: Sequence[int], epoch: int, layout: Layout) -> None:
    slices, in_fold = read_folds(layout, folds, config.neighbours)
    for fold in folds:
        checkpoint = layout.fold(config.name, fold).checkpoint(epoch)
        check_checkpoint(checkpoint, config, fold, epoch)
        check_unseen(checkpoint, slices.take(in_fold != fold).fingerprint(), slices.take(in_fold == fold).patients)


def _group(
    config: Config,
    folds: Sequence[int],
    epoch: int,
    layout: Layout,
    split: str,
    slices: SlicesBySeries,
    components: int | None,
) -> JobGroup:
    """What the networks of all folds have to embed of a split."""
    fingerprint = slices.inputs.fingerprint()
    jobs = []
    for fold in folds:
        folder = layout.fold(config.name, fold)
        checkpoint, output = folder.checkpoint(epoch), folder.embeddings(split, epoch)
        provenance = Provenance(
            conf=config.name,
            fold=fold,
            epoch=epoch,
            checkpoint=file_sha256(checkpoint),
            data_fingerprint=read_data_fingerprint(checkpoint),
            split=split,
            slices=fingerprint,
            tta=tta_name(config),
            components=components,
        )
        jobs.append(Job(checkpoint, provenance, output, finished=is_finished(output, provenance)))
    return JobGroup(f"{config.name} {split} embeddings", split, slices.inputs, jobs)


def _check_disk(groups: Sequence[JobGroup], dimensions: int, layout: Layout) -> None:
    """Report the room that is needed, and raise NotEnoughDisk where the disk has not as much."""
    n_records = sum(len(group.inputs) * len(group.due) for group in groups)
    if not n_records:
        return
    needed = n_records * record(dimensions).itemsize
    outputs = [job.output for group in groups for job in group.due]
    overwritten = sum(output.stat().st_size for output in outputs if output.is_file())
    free = shutil.disk_usage(layout.root).free + overwritten
    what = f"{n_records} embeddings of {dimensions} numbers take {needed / 1e9:.2f} GB"
    if needed > free:
        raise NotEnoughDisk(f"{what}, and {layout.root} has {free / 1e9:.2f} GB free")
    _log.info("%s; %.0f GB are free", what, free / 1e9)


def _projections(
    jobs: Sequence[Job], predictor: Predictor, training: SlicesBySeries, layout: Layout
) -> list[PrincipalComponents]:
    """The principal components of each network's embeddings of a sample of its training slices; kept for next time."""
    paths = [layout.fold(job.provenance.conf, job.provenance.fold).components(job.provenance.epoch) for job in jobs]
    keys = [components_key(job.provenance) for job in jobs]
    kept = [read_components(path, key) for path, key in zip(paths, keys, strict=True)]
    found = broadcast_object_list([[each for each in kept if each is not None]])[0]
    if len(found) == len(jobs):
        return found
    config = predictor.config
    count = min(FITTED_ON, len(training.ids))
    sample = np.sort(np.random.default_rng(config.seed).choice(len(training.ids), count, replace=False))
    desc = f"{config.name} a sample for principal components"
    outputs = np.concatenate(list(predictor.outputs(training.inputs, sample.tolist(), desc)), axis=1)
    projections = []
    for job, path, key, output in zip(jobs, paths, keys, outputs, strict=True):
        assert training.folds is not None and job.provenance.components is not None  # noqa: S101, PT018 - of training
        seen = training.folds[sample] != job.provenance.fold
        projections.append(fit_components(output[seen, len(LABELS) :], job.provenance.components))
        if predictor.accelerator.is_main_process:
            write_components(path, projections[-1], key)
    return projections


def components_key(provenance: Provenance) -> str:
    """What components, the same for train and test, depend on."""
    of = provenance
    return json.dumps([of.checkpoint, of.data_fingerprint, of.tta, of.components])


def main() -> None:
    """Read arguments, embed."""
    parser = Parser(
        prog="python -m src.sequence.embed",
        description=__doc__,
        epilog="example: python -m src.sequence.embed conf/efficientnet-b2.yaml --fold 0 1 2 3 4 --epoch 3",
    )
    parser.add_argument("conf", type=Path, help="a classifier's file of conf/")
    parser.add_folds("folds that the networks did not see")
    parser.add_epoch()
    parser.add_root()
    parser.add_argument(
        "--pca",
        type=positive,
        metavar="N",
        help="reduce embeddings to N principal components, fitted on training slices (default: all numbers)",
    )
    add_inference_arguments(parser)
    parser.add_overrides()
    args = parser.parse_args()
    config = load_config(args.conf, args.set)
    more = {"components": args.pca, "at_once": args.at_once, "save_s": args.save_seconds}
    room = advising(NotEnoughDisk, "make room, or reduce them: --pca 256 (PCA=256)")
    fewer = advising(TooManyComponents, "give a smaller --pca (PCA)")
    with errors_explained(config), leaving_together(), room, fewer:
        embed(config, args.fold, args.epoch, Layout(args.root), **more)


if __name__ == "__main__":
    run_command(main)
