"""Train one classifier on one fold: a checkpoint and a row of metrics per epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from src.arguments import Parser, positive
from src.classify.augment import Augmentation
from src.classify.checkpoint import About, save_checkpoint
from src.classify.curves import Curves
from src.classify.dataset import EpochSampler, PlainSlices, TrainingSlices
from src.classify.failures import failures_explained
from src.classify.loading import make_loader
from src.classify.loop import make_accelerator, predict_slices, reestimate_batch_norm, share_buffers, train_epoch
from src.classify.network import build_network
from src.classify.optimise import make_average, make_optimizer, make_scheduler
from src.classify.processes import folder_of_one_run, leaving_together, require_agreement
from src.classify.resume import read_begun
from src.classify.split import Slices, read_split, steps_per_epoch
from src.classify.state import Position, TrainingState
from src.classify.tryout import describe, overfit
from src.classify.versions import note_versions
from src.config import Config, dump_config, load_config
from src.errors import UserError, run_command
from src.evaluate.score import auc_by_label, average_precision_by_label, log_loss_by_label
from src.files.atomic import replacing
from src.files.layout import FoldFolder, Layout
from src.labels import LABELS, WEIGHTS


def train(config: Config, fold: int, layout: Layout) -> None:
    """Train a classifier on all folds but `fold`, and validate on `fold` after each epoch.

    Goes on after the last saved step of an earlier run, and does nothing where that run was complete. Raises
    UserError for a fold that does not exist, a conf or slices that changed since it was begun, or fewer slices than a
    batch.
    """
    training, validation = read_split(layout, fold, config.neighbours)
    steps = steps_per_epoch(config, fold, training)
    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} processes")
    folder = layout.fold(config.name, fold)
    with folder_of_one_run(accelerator, folder.path):
        trained_on = training.fingerprint()
        begun = read_begun(config, folder, trained_on)
        place = begun.state and begun.state["position"]
        require_agreement(accelerator, f"files in {folder.path}", (trained_on, begun.finished, place))
        if begun.finished:
            accelerator.print(f"{folder.path}: trained already; delete it to train again")
            return
        state = _begin(config, accelerator, trained_on, begun.state, steps)
        del begun  # as large as all that training keeps
        _go_on(config, fold, folder, training, validation, state, steps)


def _begin(
    config: Config, accelerator: Accelerator, trained_on: str, saved: dict[str, Any] | None, steps: int
) -> TrainingState:
    """What training begins with, or goes on with. steps: of an epoch."""
    torch.manual_seed(config.seed)
    network = build_network(config, pretrained=None if saved is None else "none")
    average = None if config.ema_decay is None else make_average(network, config.ema_decay)
    optimizer = make_optimizer(config.optimizer, network)
    scheduler = make_scheduler(config.scheduler, optimizer, steps)
    state = TrainingState(accelerator, network, average, optimizer, scheduler, trained_on)
    if saved is not None:
        state.restore(saved)
    return state


def _go_on(
    config: Config,
    fold: int,
    folder: FoldFolder,
    training: Slices,
    validation: Slices,
    state: TrainingState,
    steps: int,
) -> None:
    """Train what is left of the epochs. steps: of an epoch."""
    accelerator = state.accelerator
    sampler = EpochSampler(len(training), config.seed)
    network, optimizer, training_loader, validation_loader, statistics_loader = accelerator.prepare(
        state.network,
        state.optimizer,
        _training_loader(config, training, sampler),
        make_loader(config, PlainSlices(validation.stacks, config.image_size)),
        # drop_last, here and in training: batch norm makes nothing of a last batch of one
        make_loader(config, PlainSlices(training.stacks, config.image_size), drop_last=True),
    )
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
            desc = f"{config.name} fold {fold} epoch {epoch} of {config.epochs}"
            if state.position.step < steps:
                train_epoch(
                    accelerator,
                    network,
                    training_loader,
                    optimizer,
                    training.ids,
                    f"{desc}, training",
                    state.position,
                    seed=config.seed,
                    accumulate=config.accumulate,
                    clip_norm=config.optimizer.clip_norm,
                    label_weights=tuple(config.label_weights.values()),
                    scheduler=state.scheduler,
                    after_step=between_steps,
                )
                save()  # validation may be stopped too
            if config.network.reestimate_batch_norm:
                reestimate_batch_norm(accelerator, state.judged, statistics_loader, f"{desc}, batch norm")
            share_buffers(state.judged)
            probabilities = predict_slices(
                accelerator, state.judged, validation_loader, len(validation), f"{desc}, validation"
            )
            lr = config.optimizer.lr * config.scheduler.factor(epoch * steps - 1, steps)  # of the epoch's last step
            row = _metrics(state.position, lr, validation.targets, probabilities)
            state.metrics.append(row)
            state.position = Position(epoch + 1)
            if accelerator.is_main_process:
                about = About.of(config, fold, epoch, state.trained_on)
                save_checkpoint(folder.checkpoint(epoch), state.judged, about)
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


def _training_loader(config: Config, slices: Slices, sampler: EpochSampler) -> DataLoader:
    dataset = TrainingSlices(
        slices.stacks,
        slices.targets,
        Augmentation(config.augment, config.image_size),
        config.window_jitter,
        len(config.windows),
        config.seed,
    )
    return make_loader(config, dataset, sampler=sampler, drop_last=True)


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


def main() -> None:
    """Read arguments, train, report."""
    parser = Parser(
        prog="python -m src.classify.train",
        description=__doc__,
        epilog="example: python -m src.classify.train conf/se_resnext50_32x4d.yaml --fold 0 --set optimizer.lr=1e-4",
    )
    parser.add_argument("conf", type=Path, help="a file of conf/")
    parser.add_argument("--fold", type=int, required=True, help="the fold that is left out, from 0")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of input/ cache/ model/ (default: here)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the conf"
    )
    trying = parser.add_mutually_exclusive_group()
    trying.add_argument("--dry-run", action="store_true", help="print the resolved conf and what it amounts to")
    trying.add_argument(
        "--overfit",
        type=positive,
        metavar="N",
        help="train on N slices alone, without augmentation, dropout and warm-up, until the loss is near zero",
    )
    args = parser.parse_args()
    config, layout = load_config(args.conf, args.set), Layout(args.root)
    with failures_explained(config), leaving_together():
        if args.dry_run:
            print(describe(config, args.fold, layout))
        elif args.overfit:
            steps, loss, count = overfit(config, args.fold, layout, args.overfit)
            print(f"{config.name}: loss {loss:.4f} on {count} slices after {steps} steps")
        else:
            train(config, args.fold, layout)


if __name__ == "__main__":
    run_command(main)
