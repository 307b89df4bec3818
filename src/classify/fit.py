"""One training, of whatever kind: from its beginning, or from where it stopped, to its last epoch."""

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from src.classify.checkpoint import Trained, save_checkpoint
from src.classify.curves import Curves
from src.classify.dataset import EpochSampler
from src.classify.loop import make_accelerator, share_buffers, train_epoch
from src.classify.optimise import make_average, make_optimizer, make_scheduler
from src.classify.processes import folder_of_one_run, require_agreement
from src.classify.resume import read_begun
from src.classify.state import Position, TrainingState
from src.classify.versions import note_versions
from src.config import TrainingConf, dump_config
from src.errors import UserError
from src.evaluate.score import auc_by_label, average_precision_by_label, log_loss_by_label
from src.files.atomic import replacing
from src.files.layout import FoldFolder
from src.labels import LABELS, WEIGHTS

_Conf = TypeVar("_Conf", bound=TrainingConf, covariant=True)


class Task(Protocol, Generic[_Conf]):
    """What is trained, and on what: a network, an epoch's items (slices, or series of slices), and a validation set."""

    @property
    def config(self) -> _Conf:
        """How it is trained."""

    @property
    def fold(self) -> int:
        """The one that is left out."""

    @property
    def folder(self) -> FoldFolder:
        """Where all of it is kept."""

    @property
    def trained_on(self) -> str:
        """A word that changes when the training data do."""

    @property
    def ids(self) -> Sequence[str]:
        """The slices that a batch's "index" counts."""

    @property
    def n_items(self) -> int:
        """Of an epoch."""

    @property
    def unit(self) -> str:
        """What an item is, in the plural."""

    @property
    def targets(self) -> np.ndarray:
        """Of the M slices of the validation set: (M, 6)."""

    def build(self, *, fresh: bool) -> nn.Module:
        """The network, with the weights that it starts from where it is fresh."""

    def about(self, epoch: int) -> Trained:
        """What the checkpoint of an epoch says of itself."""

    def training_loader(self, sampler: EpochSampler) -> DataLoader:
        """Batches of the items that a sampler names, whole ones alone."""

    def forward(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets of the n slices of a batch: (n, 6) each."""

    def prepare(self, accelerator: Accelerator) -> None:
        """Make ready for `refresh` and `validate`."""

    def refresh(self, accelerator: Accelerator, network: nn.Module, desc: str) -> None:
        """What a network needs between an epoch and its validation."""

    def validate(self, accelerator: Accelerator, network: nn.Module, desc: str) -> np.ndarray:
        """A network's probabilities of the validation set: (M, 6)."""


def fit(task: Task[TrainingConf]) -> None:
    """Train and validate, epoch by epoch: a checkpoint and a row of metrics for each.

    Goes on after the last saved step of an earlier run, and does nothing where that run was complete. Raises UserError
    for a conf or data that changed since it was begun, and for fewer items than a step takes.
    """
    config, folder = task.config, task.folder
    steps = steps_per_epoch(config, task.fold, task.n_items, task.unit)
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} processes")
    with folder_of_one_run(accelerator, folder.path):
        begun = read_begun(config, folder, task.trained_on)
        place = begun.state and begun.state["position"]
        require_agreement(accelerator, f"files in {folder.path}", (task.trained_on, begun.finished, place))
        if begun.finished:
            accelerator.print(f"{folder.path}: trained already; delete it to train again")
            return
        state = _begin(task, accelerator, begun.state, steps)
        del begun  # as large as all that training keeps
        _go_on(task, state, steps)


def steps_per_epoch(config: TrainingConf, fold: int, n_items: int, unit: str = "slices") -> int:
    """How many steps an epoch has; what is left at its end makes none. Raises UserError where there is none at all."""
    steps = n_items // (config.batch_size * config.accumulate)
    if not steps:
        times = f" x accumulate {config.accumulate}" if config.accumulate > 1 else ""
        raise UserError(f"batch_size {config.batch_size}{times} is larger than fold {fold}'s {n_items} {unit}")
    return steps


def _begin(
    task: Task[TrainingConf], accelerator: Accelerator, saved: dict[str, Any] | None, steps: int
) -> TrainingState:
    """What training begins with, or goes on with. steps: of an epoch."""
    config = task.config
    torch.manual_seed(config.seed)
    network = task.build(fresh=saved is None)
    average = None if config.ema_decay is None else make_average(network, config.ema_decay)
    optimizer = make_optimizer(config.optimizer, network)
    scheduler = make_scheduler(config.scheduler, optimizer, steps)
    state = TrainingState(accelerator, network, average, optimizer, scheduler, task.trained_on)
    if saved is not None:
        state.restore(saved)
    return state


def _go_on(task: Task[TrainingConf], state: TrainingState, steps: int) -> None:
    """Train what is left of the epochs. steps: of an epoch."""
    config, folder, accelerator = task.config, task.folder, state.accelerator
    sampler = EpochSampler(task.n_items, config.seed)
    network, optimizer, training_loader = accelerator.prepare(
        state.network, state.optimizer, task.training_loader(sampler)
    )
    task.prepare(accelerator)
    if state.average is not None:
        accelerator.prepare_model(state.average, evaluation_mode=True)
        accelerator.prepare_model(state.judged, evaluation_mode=True)
    if config.compile:
        state.network.compile()
    if accelerator.is_main_process:
        with replacing(folder.conf) as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")
        since = f"epoch {state.position.epoch}, step {state.position.step}"
        note_versions(folder.versions, since, accelerator.num_processes)

    def steps_done() -> int:
        return (state.position.epoch - 1) * steps + state.position.step

    with Curves(folder.curves if accelerator.is_main_process else None, steps_done()) as curves:

        def save() -> None:
            curves.flush()  # before: a run that goes on makes no point again that lies before its state
            state.save(folder.state)

        def between_steps(loss: float, stopping: bool) -> None:
            if state.average is not None:
                state.average.update_parameters(state.network)
            curves.add({"step/loss": loss, "step/lr": state.scheduler.get_last_lr()[0]}, steps_done())
            if stopping or (config.save_steps and state.position.step % config.save_steps == 0):
                save()

        while state.position.epoch <= config.epochs:
            epoch = state.position.epoch
            sampler.epoch, sampler.first = epoch, state.position.step * config.batch_size * config.accumulate
            desc = f"{config.name} fold {task.fold} epoch {epoch} of {config.epochs}"
            if state.position.step < steps:
                train_epoch(
                    accelerator,
                    network,
                    training_loader,
                    optimizer,
                    task.ids,
                    f"{desc}, training",
                    state.position,
                    seed=config.seed,
                    accumulate=config.accumulate,
                    clip_norm=config.optimizer.clip_norm,
                    label_weights=tuple(config.label_weights.values()),
                    forward=task.forward,
                    scheduler=state.scheduler,
                    after_step=between_steps,
                )
                save()  # validation may be stopped too
            task.refresh(accelerator, state.judged, desc)
            share_buffers(state.judged)
            probabilities = task.validate(accelerator, state.judged, f"{desc}, validation")
            lr = config.optimizer.lr * config.scheduler.factor(epoch * steps - 1, steps)  # of the epoch's last step
            row = _metrics(state.position, lr, task.targets, probabilities)
            state.metrics.append(row)
            state.position = Position(epoch + 1)
            if accelerator.is_main_process:
                save_checkpoint(folder.checkpoint(epoch), state.judged, task.about(epoch))
                with replacing(folder.metrics) as temporary:
                    pd.DataFrame(state.metrics).to_csv(temporary, index=False)
                save()
                # not before: were the run to end in between, the next one would add them again
                curves.add({f"epoch/{name}": value for name, value in row.items() if name != "epoch"}, epoch * steps)
                curves.flush()
                print(
                    f"{desc}: training loss {row['train']:.4f}, validation weighted log loss {row['valid']:.4f}, "
                    f"{row['images_per_second']:.0f} images/s",
                    flush=True,
                )
            accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.state.unlink(missing_ok=True)


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
        "waiting_share": position.waiting / position.seconds,
    }
