"""One training, of a classifier or a sequence model: from its beginning or its resume point to its last epoch."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.config import TrainingConf, dump_config
from src.errors import UserError
from src.evaluate.score import auc_by_label, average_precision_by_label, log_loss_by_label
from src.files.atomic import replacing
from src.files.layout import FoldFolder
from src.labels import LABELS, WEIGHTS
from src.train.checkpoint import CheckpointMetadata, save_checkpoint
from src.train.distributed import folder_of_one_run, make_accelerator, require_agreement
from src.train.epoch import TrainingStep, share_buffers, train_epoch
from src.train.loader import EpochSampler
from src.train.optim import make_average, make_optimizer, make_scheduler
from src.train.state import Position, TrainingState, find_resume_point
from src.train.tensorboard import TensorBoard
from src.train.versions import note_versions

_log = logging.getLogger(__name__)
_Conf = TypeVar("_Conf", bound=TrainingConf, covariant=True)


class Task(Protocol, Generic[_Conf]):
    """What is trained, and on what: a network, an epoch's items (slices, or series of slices), and a validation set."""

    @property
    def config(self) -> _Conf:
        """How it is trained."""

    @property
    def fold(self) -> int:
        """The fold held out."""

    @property
    def folder(self) -> FoldFolder:
        """Where everything is written."""

    @property
    def data_fingerprint(self) -> str:
        """A hash of the training data."""

    @property
    def ids(self) -> Sequence[str]:
        """The slices that a batch's "index" counts."""

    @property
    def n_items(self) -> int:
        """The number of items in an epoch."""

    @property
    def unit(self) -> str:
        """What an item is, in the plural."""

    @property
    def targets(self) -> np.ndarray:
        """The labels of the M slices of the validation set: (M, 6)."""

    def build(self, *, fresh: bool) -> nn.Module:
        """The network; with the weights that it starts from where it is fresh."""

    def metadata(self, epoch: int) -> CheckpointMetadata:
        """What the checkpoint of an epoch records."""

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Whole batches of the items that a sampler names."""

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the n slices of a batch: (n, 6) each."""

    def prepare(self, accelerator: Accelerator) -> None:
        """Get ready for `refresh` and `validate`."""

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """Do what a network needs between an epoch and its validation."""

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the validation set: (M, 6)."""


def fit(task: Task[TrainingConf]) -> None:
    """Train and validate, epoch by epoch: a checkpoint and a row of metrics for each.

    Goes on after the last saved step of an earlier run, and does nothing where that run was complete. Raises UserError
    for a conf or data that changed since it began, and for fewer items than a step takes.
    """
    config, folder = task.config, task.folder
    steps = steps_per_epoch(config, task.fold, task.n_items, task.unit)
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size {config.batch_size} cannot be divided among {accelerator.num_processes} processes")
    with folder_of_one_run(accelerator, folder.path):
        resume_point = find_resume_point(config, folder, task.data_fingerprint)
        position = resume_point.state and resume_point.state["position"]
        seen = (task.data_fingerprint, resume_point.finished, position)
        require_agreement(accelerator, f"files in {folder.path}", seen)
        if resume_point.finished:
            _log.info("%s: trained already; delete it to train again", folder.path)
            return
        state = _start(task, accelerator, resume_point.state, steps)
        del resume_point  # as large as all that training keeps
        _Training(task, state, steps).run()
    accelerator.free_memory()  # the next fold may be trained in the same process


def steps_per_epoch(config: TrainingConf, fold: int, n_items: int, unit: str = "slices") -> int:
    """How many steps an epoch has; items left over at its end make none. Raises UserError where there would be none."""
    steps = n_items // (config.batch_size * config.accumulate)
    if not steps:
        times = f" x accumulate {config.accumulate}" if config.accumulate > 1 else ""
        raise UserError(f"batch_size {config.batch_size}{times} is larger than fold {fold}'s {n_items} {unit}")
    return steps


def _start(
    task: Task[TrainingConf], accelerator: Accelerator, saved: dict[str, Any] | None, steps: int
) -> TrainingState:
    """The state that training begins with, or the saved one. steps: of an epoch."""
    config = task.config
    torch.manual_seed(config.seed)
    network = task.build(fresh=saved is None)
    average = None if config.ema_decay is None else make_average(network, config.ema_decay)
    optimizer = make_optimizer(config.optimizer, network)
    scheduler = make_scheduler(config.scheduler, optimizer, steps)
    state = TrainingState(accelerator, network, average, optimizer, scheduler, task.data_fingerprint)
    if saved is not None:
        try:
            state.restore(saved)
        except UserError as error:
            raise UserError(
                f"{task.folder.state}: {error}; delete {task.folder.path} to train this fold again"
            ) from error
    return state


class _Training:
    """The epochs that are left of a training. steps: of an epoch."""

    def __init__(self, task: Task[TrainingConf], state: TrainingState, steps: int) -> None:
        self.task, self.state, self.steps = task, state, steps
        self.config, self.folder, self.accelerator = task.config, task.folder, state.accelerator

    def run(self) -> None:
        """Train and validate, epoch by epoch."""
        self._prepare()
        log_folder = self.folder.curves if self.accelerator.is_main_process else None
        with TensorBoard(log_folder, self._steps_done()) as curves:
            while self.state.position.epoch <= self.config.epochs:
                epoch = self.state.position.epoch
                desc = f"{self.config.name} fold {self.task.fold} epoch {epoch} of {self.config.epochs}"
                if self.state.position.step < self.steps:
                    self._train(curves, desc)
                probabilities = self._validate(desc)
                self._finish_epoch(curves, desc, probabilities)
        if self.accelerator.is_main_process:
            self.folder.state.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Hand networks and loaders to accelerate, and note what this run is made with."""
        task, state, config = self.task, self.state, self.config
        self.sampler = EpochSampler(task.n_items, config.seed)
        network, optimizer, self.loader = self.accelerator.prepare(
            state.network, state.optimizer, task.training_loader(self.sampler)
        )
        self.step = TrainingStep(
            self.accelerator,
            network,
            optimizer,
            task.forward,
            state.scheduler,
            tuple(config.label_weights.values()),
            config.optimizer.clip_norm,
        )
        task.prepare(self.accelerator)
        if state.average is not None:
            self.accelerator.prepare_model(state.average, evaluation_mode=True)
            self.accelerator.prepare_model(state.eval_network, evaluation_mode=True)
        if config.compile:
            state.network.compile()
        if self.accelerator.is_main_process:
            with replacing(self.folder.conf) as temporary:
                temporary.write_text(dump_config(config), encoding="utf-8")
            since = f"epoch {state.position.epoch}, step {state.position.step}"
            processes = self.accelerator.num_processes
            state.versions = note_versions(self.folder.versions, since, processes, state.versions)

    def _train(self, curves: TensorBoard, desc: str) -> None:
        """Train for the rest of an epoch."""
        position, config = self.state.position, self.config
        self.sampler.epoch = position.epoch
        self.sampler.first = position.step * config.batch_size * config.accumulate
        train_epoch(
            self.step,
            self.loader,
            position,
            ids=self.task.ids,
            desc=f"{desc}, training",
            seed=config.seed,
            accumulate=config.accumulate,
            after_step=partial(self._after_step, curves),
        )
        self._save(curves)  # validation may be stopped too

    def _after_step(self, curves: TensorBoard, loss: float, stopping: bool) -> None:
        state, save_steps = self.state, self.config.save_steps
        if state.average is not None:
            state.average.update_parameters(state.network)
        curves.add({"step/loss": loss, "step/lr": state.scheduler.get_last_lr()[0]}, self._steps_done())
        if stopping or (save_steps and state.position.step % save_steps == 0):
            self._save(curves)

    def _validate(self, desc: str) -> np.ndarray:
        """The probabilities of the validation set after an epoch: (M, 6)."""
        network = self.state.eval_network
        self.task.refresh(self.accelerator, network, desc)
        share_buffers(network)
        return self.task.validate(self.accelerator, network, f"{desc}, validation")

    def _finish_epoch(self, curves: TensorBoard, desc: str, probabilities: np.ndarray) -> None:
        """Write an epoch's checkpoint and metrics, and move on to the next."""
        state, epoch = self.state, self.state.position.epoch
        last_step = epoch * self.steps - 1
        lr = self.config.optimizer.lr * self.config.scheduler.factor(last_step, self.steps)
        row = _metrics(state.position, lr, self.task.targets, probabilities)
        state.metrics.append(row)
        state.position = Position(epoch + 1)
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder.checkpoint(epoch), state.eval_network, self.task.metadata(epoch))
            with replacing(self.folder.metrics) as temporary:
                pd.DataFrame(state.metrics).to_csv(temporary, index=False)
            self._save(curves)
            # not earlier: were the run to end in between, the next one would add these points again
            curves.add({f"epoch/{name}": value for name, value in row.items() if name != "epoch"}, epoch * self.steps)
            curves.flush()
            _log.info(
                "%s: training loss %.4f, validation weighted log loss %.4f, %.0f images/s",
                *(desc, row["train"], row["valid"], row["images_per_second"]),
            )
        self.accelerator.wait_for_everyone()

    def _save(self, curves: TensorBoard) -> None:
        curves.flush()  # first: a resumed run writes no point again that lies before its state
        self.state.save(self.folder.state)

    def _steps_done(self) -> int:
        return (self.state.position.epoch - 1) * self.steps + self.state.position.step


def _metrics(position: Position, lr: float, targets: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    scores = {
        "valid": log_loss_by_label(targets, probabilities),
        "auc": auc_by_label(targets, probabilities),
        "average_precision": average_precision_by_label(targets, probabilities),
    }
    return {
        "epoch": position.epoch,
        "lr": lr,
        "train": position.mean_loss,
        "valid": float(np.average(scores["valid"], weights=WEIGHTS)),
        **{
            f"{name}_{label}": float(value)
            for name, values in scores.items()
            for label, value in zip(LABELS, values, strict=True)
        },
        "images_per_second": position.images_per_second,
        "waiting_fraction": position.waiting / position.seconds,
    }
