"""Embed all slices, train and test, by one classifier's networks of some folds: what a sequence model reads of them.

Each slice is read and decoded once for all of these networks.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Subset

from src.arguments import Parser, positive
from src.classify.checkpoint import file_sha256, read_trained_on
from src.classify.dataset import PlainSlices
from src.classify.failures import failures_explained
from src.classify.loading import make_loader
from src.classify.loop import make_accelerator, predict_batches
from src.classify.network import Network, build_network, embeddings_of
from src.classify.passes import check_checkpoint, check_unseen, views_of
from src.classify.predict import SAVE_S
from src.classify.processes import folder_of_one_run, leaving_together
from src.classify.several import how_many_fit, load_several
from src.classify.split import read_folds
from src.classify.stacks import Stacks
from src.classify.views import mean_over_views
from src.config import Config, load_config
from src.errors import UserError, run_command
from src.evaluate.score import CLIP
from src.files.embeddings import EmbeddedBy, EmbeddingWriter, is_finished, record
from src.files.layout import Layout
from src.labels import LABELS
from src.sequence.components import Components, fit_components, read_components, write_components
from src.sequence.series import InSeries, read_in_series

SPLITS = ("train", "test")
FITTED_ON = 12_500  # slices that components are fitted on, less those of the fold


@dataclass(frozen=True)
class Job:
    """What one network embeds: its checkpoint, what the file will say of itself, and that file."""

    checkpoint: Path
    by: EmbeddedBy
    output: Path
    components: Path

    @property
    def finished(self) -> bool:
        """Whether the file is there, by the same weights, of the same slices."""
        return is_finished(self.output, self.by)

    @property
    def key(self) -> str:
        """What its components, the same for train and test, depend on."""
        said = asdict(self.by)
        return json.dumps([said[key] for key in ("checkpoint", "trained_on", "views", "components")])


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

    Files that were made by the same checkpoints from the same slices are left as they are; what was interrupted goes on
    after the last save. components: of a principal component analysis of each network's training embeddings, to which
    they are reduced; None for no reduction. at_once: networks in memory together; None for as many as half of the free
    memory holds. save_s: seconds between two saves. Raises UserError for checkpoints that are missing, of another conf,
    or trained on other slices than their fold leaves them, and where the disk is too small.
    """
    _check_networks(config, folds, epoch, layout)
    accelerator = make_accelerator(config.precision)
    network = build_network(config, pretrained="none")
    dimensions = components or _dimensions(network, config)
    with folder_of_one_run(accelerator, layout.fold(config.name, folds[0]).path.parent):
        by_split = {split: read_in_series(layout, split, config.neighbours) for split in SPLITS}
        due = {}
        for split, slices in by_split.items():
            jobs = [_job(config, fold, epoch, layout, split, slices, components) for fold in folds]
            due[split] = [job for job in jobs if not job.finished]
            if not due[split]:
                accelerator.print(f"{config.name} {split}: embeddings of epoch {epoch} are there already")
        numbers = sum(len(by_split[split].ids) * len(jobs) for split, jobs in due.items())
        _check_disk(accelerator, layout, numbers, dimensions, [job for jobs in due.values() for job in jobs])
        accelerator.wait_for_everyone()  # nobody writes before everybody knows what is due
        together = at_once or how_many_fit(accelerator, network)
        for split, jobs in due.items():
            for first in range(0, len(jobs), together):
                group = jobs[first : first + together]
                networks = load_several(accelerator, network, [job.checkpoint for job in group])
                _Pass(config, accelerator, networks, group, save_s).run(by_split, split, dimensions)
                accelerator.wait_for_everyone()
                accelerator.free_memory()


def output_with_embedding(network: nn.Module, seen: Sequence[torch.Tensor]) -> torch.Tensor:
    """A network's logits, those of its mean probabilities, and its mean embedding over V views: (N, 6 + D) float32."""
    assert isinstance(network, Network)  # noqa: S101 - what `load_several` gives
    with embeddings_of(network) as found:
        probabilities = mean_over_views(network, seen)
    return torch.cat([torch.logit(probabilities, eps=CLIP), torch.stack(found).float().mean(dim=0)], dim=1)


def _check_networks(config: Config, folds: Sequence[int], epoch: int, layout: Layout) -> None:
    slices, in_fold = read_folds(layout, folds, config.neighbours)
    for fold in folds:
        checkpoint = layout.fold(config.name, fold).checkpoint(epoch)
        check_checkpoint(checkpoint, config, fold, epoch)
        check_unseen(checkpoint, slices.take(in_fold != fold).fingerprint())


def _job(
    config: Config, fold: int, epoch: int, layout: Layout, split: str, slices: InSeries, components: int | None
) -> Job:
    folder = layout.fold(config.name, fold)
    checkpoint = folder.checkpoint(epoch)
    by = EmbeddedBy(
        config.name,
        fold,
        epoch,
        file_sha256(checkpoint),
        read_trained_on(checkpoint),
        split,
        slices.stacks.fingerprint(),
        views_of(config),
        components,
    )
    return Job(checkpoint, by, folder.embeddings(split, epoch), folder.components(epoch))


def _dimensions(network: Network, config: Config) -> int:
    """Of an embedding."""
    image = torch.zeros(1, 2 * config.neighbours + 1, config.image_size, config.image_size)
    with torch.inference_mode(), embeddings_of(network.eval()) as found:
        network(image)
    return found[0].shape[1]


def _check_disk(accelerator: Accelerator, layout: Layout, n_records: int, dimensions: int, jobs: Sequence[Job]) -> None:
    """Say what is needed, and raise UserError where the disk has not as much."""
    if not n_records:
        return
    needed = n_records * record(dimensions).itemsize
    there = sum(job.output.stat().st_size for job in jobs if job.output.is_file())  # which is written over
    free = shutil.disk_usage(layout.root).free + there
    what = f"{n_records} embeddings of {dimensions} numbers take {needed / 1e9:.2f} GB"
    if needed > free:
        raise UserError(
            f"{what}, and {layout.root} has {free / 1e9:.2f} GB free; make room, or reduce them: --pca 256 (PCA=256)"
        )
    accelerator.print(f"{what}; {free / 1e9:.0f} GB are free", flush=True)


@dataclass(frozen=True)
class _Pass:
    """The networks of a group, by which slices are embedded together."""

    config: Config
    accelerator: Accelerator
    networks: Sequence[nn.Module]
    group: Sequence[Job]
    save_s: float

    def run(self, by_split: dict[str, InSeries], split: str, dimensions: int) -> None:
        """Embed what is left of a split. by_split: components are those of the training slices."""
        slices = by_split[split]
        projections = self._components(by_split["train"]) if self.group[0].by.components else None
        writers = [EmbeddingWriter(job.output, job.by, len(slices.ids), dimensions) for job in self.group]
        done = broadcast_object_list([min(writer.done for writer in writers)])[0]
        with ExitStack() as stack:
            if self.accelerator.is_main_process:
                for writer in writers:
                    writer.open_at(done)
                    stack.enter_context(closing(writer))
            saved_at = time.monotonic()
            try:
                for outputs in self._outputs(slices.stacks, np.arange(done, len(slices.ids)), f"{split}, embedding"):
                    if self.accelerator.is_main_process:
                        _write(writers, outputs, projections)
                        if time.monotonic() - saved_at >= self.save_s:
                            _save(writers)
                            saved_at = time.monotonic()
            finally:  # where it is told to stop, too
                if self.accelerator.is_main_process:
                    _save(writers)

    def _components(self, training: InSeries) -> list[Components]:
        """Of each network's embeddings of a sample of the slices that it was trained on; read, where they are there."""
        there = [read_components(job.components, job.key) for job in self.group]
        found = broadcast_object_list([[each for each in there if each is not None]])[0]
        if len(found) == len(self.group):
            return found
        count = min(FITTED_ON, len(training.ids))
        sample = np.sort(np.random.default_rng(self.config.seed).choice(len(training.ids), count, replace=False))
        outputs = np.concatenate(list(self._outputs(training.stacks, sample, "a sample for components")), axis=1)
        components = []
        for job, output in zip(self.group, outputs, strict=True):
            assert job.by.components is not None  # noqa: S101 - who calls has looked
            seen = training.folds[sample] != job.by.fold
            components.append(fit_components(output[seen, len(LABELS) :], job.by.components))
            if self.accelerator.is_main_process:
                write_components(job.components, components[-1], job.key)
        return components

    def _outputs(self, stacks: Stacks, chosen: np.ndarray, what: str) -> Iterator[np.ndarray]:
        """What the networks give of some slices, batch by batch: (K, n, 6 + D) float32."""
        if not len(chosen):
            return
        of = ", ".join(str(job.by.fold) for job in self.group)
        desc = f"{self.config.name} {what}, network{'s' if len(self.group) > 1 else ''} of fold {of}"
        chosen_slices = Subset(PlainSlices(stacks, self.config.image_size), chosen.tolist())
        begun, waiting = time.perf_counter(), 0.0
        batches = predict_batches(
            self.accelerator,
            self.networks,
            self.accelerator.prepare(make_loader(self.config, chosen_slices)),
            desc,
            n_slices=len(chosen),
            views=self.config.tta,
            output=output_with_embedding,
        )
        for _, outputs, waited in batches:
            waiting += waited
            yield outputs
        seconds = time.perf_counter() - begun
        self.accelerator.print(
            f"{desc}: {len(chosen)} slices in {seconds:.0f} s, {len(chosen) / seconds:.0f} slices/s, "
            f"{waiting / seconds:.0%} of the time spent waiting for data"
        )


def _write(writers: Sequence[EmbeddingWriter], outputs: np.ndarray, projections: Sequence[Components] | None) -> None:
    for k, (writer, output) in enumerate(zip(writers, outputs, strict=True)):
        logits, embeddings = output[:, : len(LABELS)], output[:, len(LABELS) :]
        writer.add(logits, embeddings if projections is None else projections[k](embeddings))


def _save(writers: Sequence[EmbeddingWriter]) -> None:
    for writer in writers:
        writer.save()


def main() -> None:
    """Read arguments, embed."""
    parser = Parser(
        prog="python -m src.sequence.embed",
        description=__doc__,
        epilog="example: python -m src.sequence.embed conf/efficientnet-b2.yaml --fold 0 1 2 3 4 --epoch 3",
    )
    parser.add_argument("conf", type=Path, help="a classifier's file of conf/")
    parser.add_argument(
        "--fold", type=int, nargs="+", required=True, metavar="K", help="folds that the networks did not see, from 0"
    )
    parser.add_argument("--epoch", type=int, default=3, metavar="E", help="whose checkpoints (default 3)")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument(
        "--pca",
        type=positive,
        metavar="N",
        help="reduce embeddings to N principal components, fitted on training slices (default: all numbers)",
    )
    parser.add_argument(
        "--at-once",
        type=positive,
        metavar="N",
        help="networks in memory together (default: as many as half of the free memory holds)",
    )
    parser.add_argument(
        "--save-seconds",
        type=float,
        default=SAVE_S,
        metavar="S",
        help=f"seconds between two saves, from which an interrupted run goes on (default {SAVE_S:.0f})",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )
    args = parser.parse_args()
    config, folds = load_config(args.conf, args.set), list(dict.fromkeys(args.fold))
    more = {"components": args.pca, "at_once": args.at_once, "save_s": args.save_seconds}
    with failures_explained(config), leaving_together():
        embed(config, folds, args.epoch, Layout(args.root), **more)


if __name__ == "__main__":
    run_command(main)
