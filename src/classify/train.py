"""Train one classifier on one fold: a checkpoint and a row of metrics per epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from src.arguments import Parser
from src.classify.augment import Augmentation
from src.classify.checkpoint import About, load_state, read_about, save_checkpoint, save_state
from src.classify.dataset import EpochSampler, PlainSlices, TrainingSlices
from src.classify.loop import make_accelerator, predict_slices, reestimate_batch_norm, share_buffers, train_epoch
from src.classify.network import build_network
from src.classify.split import Slices, read_split
from src.config import Config, OptimizerConf, changed_keys, dump_config, load_config
from src.errors import UserError, run_command
from src.evaluate.score import auc_by_label, log_loss_by_label
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
_HARMLESS_KEYS = {"workers"}


def train(config: Config, fold: int, layout: Layout) -> None:
    """Train a classifier on all folds but `fold`, and validate on `fold` after each epoch.

    Goes on after the last finished epoch of an earlier run, and does nothing where that run was complete. Raises
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
    if len(training.ids) < config.batch_size:
        raise UserError(f"batch_size {config.batch_size} is larger than fold {fold}'s {len(training.ids)} slices")

    accelerator = make_accelerator(config.precision)
    if config.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} processes")
    state = load_state(folder.state) if folder.state.is_file() else None
    torch.manual_seed(config.seed)
    start = config.network if state is None else config.network.model_copy(update={"pretrained": "none"})
    network = build_network(start, config.image_size)
    optimizer = make_optimizer(config.optimizer, network)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, milestones=list(config.scheduler.milestones), gamma=config.scheduler.gamma
    )
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    sampler = EpochSampler(len(training.ids), config.seed)
    network, optimizer, training_loader, validation_loader = accelerator.prepare(
        network,
        optimizer,
        _training_loader(config, layout, training, sampler),
        _plain_loader(config, layout, validation),
    )
    statistics_loader = accelerator.prepare(_plain_loader(config, layout, training))
    if state is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    if accelerator.is_main_process:
        with replacing(folder.conf) as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")

    rows: list[dict[str, Any]] = [] if state is None else state["metrics"]
    plain_network = accelerator.unwrap_model(network)
    for epoch in range(len(rows) + 1, config.epochs + 1):
        # what chance there is inside the network (dropout, stochastic depth) is the epoch's, resumed or not
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        sampler.epoch = epoch
        desc = f"{config.name} fold {fold} epoch {epoch} of {config.epochs}"
        lr = optimizer.param_groups[0]["lr"]
        started = time.perf_counter()
        loss = train_epoch(accelerator, network, training_loader, optimizer, training.ids, f"{desc}, training")
        seconds = time.perf_counter() - started
        scheduler.step()
        if config.network.reestimate_batch_norm:
            reestimate_batch_norm(accelerator, plain_network, statistics_loader, f"{desc}, batch norm")
        share_buffers(plain_network)
        probabilities = predict_slices(
            accelerator, [plain_network], validation_loader, len(validation.ids), f"{desc}, validation"
        )[0]
        rows.append(_metrics(epoch, lr, loss, validation.targets, probabilities, len(training.ids) / seconds))
        if accelerator.is_main_process:
            about = About(config.name, config.network.architecture, config.image_size, fold, epoch, trained_on)
            save_checkpoint(folder.checkpoint(epoch), plain_network, about)
            _save_progress(folder, accelerator, plain_network, optimizer, scheduler, rows, trained_on)
            print(
                f"{desc}: training loss {loss:.4f}, validation weighted log loss {rows[-1]['valid']:.4f}, "
                f"{rows[-1]['images_per_second']:.0f} images/s",
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
        begun_on.add(load_state(folder.state)["trained_on"])
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


def _metrics(
    epoch: int, lr: float, loss: float, targets: np.ndarray, probabilities: np.ndarray, images_per_second: float
) -> dict[str, Any]:
    by_label, auc = log_loss_by_label(targets, probabilities), auc_by_label(targets, probabilities)
    return {
        "epoch": epoch,
        "lr": lr,
        "train": loss,
        "valid": float(np.average(by_label, weights=WEIGHTS)),
        **{f"valid_{label}": float(value) for label, value in zip(LABELS, by_label, strict=True)},
        **{f"auc_{label}": float(value) for label, value in zip(LABELS, auc, strict=True)},
        "images_per_second": images_per_second,
    }


def _save_progress(
    folder: FoldFolder,
    accelerator: Accelerator,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    rows: list[dict[str, Any]],
    trained_on: str,
) -> None:
    with replacing(folder.metrics) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    save_state(
        folder.state,
        {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            "metrics": rows,
            "trained_on": trained_on,
        },
    )


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
    args = parser.parse_args()
    config = load_config(args.conf, args.set)
    try:
        train(config, args.fold, Layout(args.root))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a batch of {config.batch_size} at {config.image_size} px does not fit the GPU's memory; "
            "give a smaller batch_size or image_size"
        ) from error


if __name__ == "__main__":
    run_command(main)
