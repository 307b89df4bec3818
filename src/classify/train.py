"""Train one classifier on one fold: a checkpoint and a row of metrics per epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from src.arguments import Parser, positive
from src.classify.augment import Augmentation
from src.classify.checkpoint import About, read_about, save_checkpoint
from src.classify.dataset import EpochSampler, PlainSlices, TrainingSlices
from src.classify.loop import make_accelerator, predict_slices, reestimate_batch_norm, share_buffers, train_epoch
from src.classify.network import build_network
from src.classify.split import Slices, read_split
from src.classify.state import Position, TrainingState, read_state
from src.classify.tryout import describe, overfit
from src.config import Config, OptimizerConf, changed_keys, dump_config, load_config
from src.errors import UserError, run_command
from src.evaluate.score import auc_by_label, average_precision_by_label, log_loss_by_label
from src.files.atomic import replacing
from src.files.images import ImageStore
from src.files.layout import FoldFolder, Layout
from src.labels import LABELS, WEIGHTS

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": torch.optim.SGD,
}

# Keys that may change under a half-trained fold: they say how fast it goes, not where to.
_HARMLESS_KEYS = {"workers", "save_steps"}


def train(config: Config, fold: int, layout: Layout) -> None:
    """Train a classifier on all folds but `fold`, and validate on `fold` after each epoch.

    Goes on after the last saved step of an earlier run, and does nothing where that run was complete. Raises
    UserError for a fold that does not exist, a conf or slices that changed since it was begun, or fewer slices than a
    batch.
    """
    folder = layout.fold(config.name, fold)
    training, validation = read_split(layout, fold)
    store = ImageStore(layout.store("train"))
    store.require(validation.ids)
    trained_on = training.fingerprint(store)
    _check_begun(config, folder, trained_on)
    if is_finished(config, folder):
        print(f"{folder.path}: trained already; delete it to train again")
        return
    if len(training.ids) < config.batch_size * config.accumulate:
        raise UserError(
            f"batch_size {config.batch_size}{f' x accumulate {config.accumulate}' if config.accumulate > 1 else ''} is "
            f"larger than fold {fold}'s {len(training.ids)} slices"
        )

    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} processes")
    saved = read_state(folder.state) if folder.state.is_file() else None
    torch.manual_seed(config.seed)
    start = config.network if saved is None else config.network.model_copy(update={"pretrained": "none"})
    network = build_network(start, config.image_size)
    optimizer = make_optimizer(config.optimizer, network)
    slices_per_step = config.batch_size * config.accumulate
    steps = len(training.ids) // slices_per_step  # of an epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: config.scheduler.factor(step, steps))
    state = TrainingState(accelerator, network, optimizer, scheduler, trained_on)
    if saved is not None:
        state.restore(saved)
    sampler = EpochSampler(len(training.ids), config.seed)
    network, optimizer, training_loader, validation_loader = accelerator.prepare(
        network,
        optimizer,
        _training_loader(config, layout, training, sampler),
        _plain_loader(config, layout, validation),
    )
    statistics_loader = accelerator.prepare(_plain_loader(config, layout, training))
    if accelerator.is_main_process:
        with replacing(folder.conf) as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")

    def save_between_steps(stopping: bool) -> None:
        if stopping or (config.save_steps and state.position.step % config.save_steps == 0):
            state.save(folder.state)

    plain_network = state.network
    while state.position.epoch <= config.epochs:
        epoch = state.position.epoch
        sampler.epoch, sampler.first = epoch, state.position.step * slices_per_step
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
                scheduler=scheduler,
                after_step=save_between_steps,
            )
            state.save(folder.state)  # validation may be stopped too
        if config.network.reestimate_batch_norm:
            reestimate_batch_norm(accelerator, plain_network, statistics_loader, f"{desc}, batch norm")
        share_buffers(plain_network)
        probabilities = predict_slices(
            accelerator, [plain_network], validation_loader, len(validation.ids), f"{desc}, validation"
        )[0]
        lr = config.optimizer.lr * config.scheduler.factor(epoch * steps - 1, steps)  # of the epoch's last step
        row = _metrics(state.position, lr, validation.targets, probabilities)
        state.metrics.append(row)
        state.position = Position(epoch + 1)
        if accelerator.is_main_process:
            about = About(config.name, config.network.architecture, config.image_size, fold, epoch, trained_on)
            save_checkpoint(folder.checkpoint(epoch), plain_network, about)
            with replacing(folder.metrics) as temporary:
                pd.DataFrame(state.metrics).to_csv(temporary, index=False)
            state.save(folder.state)
            print(
                f"{desc}: training loss {row['train']:.4f}, validation weighted log loss {row['valid']:.4f}, "
                f"{row['images_per_second']:.0f} images/s",
                flush=True,
            )
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.state.unlink(missing_ok=True)


def is_finished(config: Config, folder: FoldFolder) -> bool:
    """Whether every epoch has its checkpoint and nothing is left to resume."""
    epochs = range(1, config.epochs + 1)
    return not folder.state.is_file() and all(folder.checkpoint(epoch).is_file() for epoch in epochs)


def make_optimizer(conf: OptimizerConf, network: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a conf over a network's parameters."""
    return OPTIMIZERS[conf.name](network.parameters(), lr=conf.lr, weight_decay=conf.weight_decay)


def _check_begun(config: Config, folder: FoldFolder, trained_on: str) -> None:
    """Raise UserError where the folder holds the beginning of another training. A failed start is no beginning."""
    checkpoints = [path for epoch in range(1, config.epochs + 1) if (path := folder.checkpoint(epoch)).is_file()]
    if not checkpoints and not folder.state.is_file():
        return
    remedy = f"delete {folder.path} to train anew"
    if folder.conf.is_file():
        changed = set(changed_keys(config, folder.conf.read_text(encoding="utf-8"))) - _HARMLESS_KEYS
        if changed:
            raise UserError(
                f"{folder.path} was begun with another {', '.join(sorted(changed))} ({folder.conf} says which); "
                f"change it back, or {remedy}"
            )
    begun_on = {read_about(path).trained_on for path in checkpoints}
    if folder.state.is_file():
        begun_on.add(read_state(folder.state)["trained_on"])
    if begun_on != {trained_on}:
        raise UserError(
            f"{folder.path} was trained on other slices, folds or labels than {folder.path.name} has now; {remedy}"
        )


def _training_loader(config: Config, layout: Layout, slices: Slices, sampler: EpochSampler) -> DataLoader:
    dataset = TrainingSlices(
        layout.store("train"),
        slices.ids,
        slices.targets,
        Augmentation(config.augment, config.image_size),
        config.window_jitter,
        config.seed,
    )
    # drop_last: batch norm makes nothing of a last batch of one
    return DataLoader(dataset, sampler=sampler, drop_last=True, **_loading(config))


def _plain_loader(config: Config, layout: Layout, slices: Slices) -> DataLoader:
    return DataLoader(PlainSlices(layout.store("train"), slices.ids, config.image_size), **_loading(config))


def _loading(config: Config) -> dict[str, Any]:
    return {
        "batch_size": config.batch_size,
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
        # workers' seeds come from here, not from the generator that dropout draws from
        "generator": torch.Generator().manual_seed(config.seed),
        "pin_memory": torch.cuda.is_available(),
    }


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
        "--overfit", type=positive, metavar="N", help="train on N slices alone, until the loss is near zero"
    )
    args = parser.parse_args()
    config, layout = load_config(args.conf, args.set), Layout(args.root)
    if args.dry_run:
        print(describe(config, args.fold, layout))
        return
    try:
        if args.overfit:
            steps, loss = overfit(config, args.fold, layout, args.overfit)
            print(f"{config.name}: loss {loss:.4f} on {args.overfit} slices after {steps} steps")
            return
        train(config, args.fold, layout)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a batch of {config.batch_size} at {config.image_size} px does not fit the GPU's memory; "
            "give a smaller batch_size or image_size"
        ) from error


if __name__ == "__main__":
    run_command(main)
