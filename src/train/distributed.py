"""Several processes in one run: the accelerator that they share, and what they must agree on."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, broadcast_object_list, gather_object

from src.errors import Stopped, UserError
from src.files.atomic import held_by_one_run

_log = logging.getLogger(__name__)

WAIT_S = 1.0


def make_accelerator(precision: str) -> Accelerator:
    """The device, precision ("fp16", "bf16", "none") and processes that torch.distributed and accelerate see.

    Without a CUDA device fp16 becomes fp32, and a line says so.
    """
    mixed = mixed_precision(precision)
    # a conf's batch is that of a whole step, divided among the processes: learning rate and steps keep their meaning
    loading = DataLoaderConfiguration(split_batches=True)
    accelerator = Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available(), dataloader_config=loading)
    if precision == "fp16" and mixed == "no":
        _log.info("no CUDA device: fp32 on the CPU in place of fp16")
    return accelerator


def mixed_precision(precision: str) -> str:
    """What a conf's precision means to accelerate on this machine: "fp16", "bf16" or "no"."""
    return "no" if precision == "none" or (precision == "fp16" and not torch.cuda.is_available()) else precision


@contextmanager
def leaving_together() -> Iterator[None]:
    """Leave torch.distributed in an orderly way when a command ends or stops; its threads would abort the exit.

    After an error the other processes may be anywhere, and are ended from outside.
    """
    try:
        yield
    except Stopped:
        _leave()
        raise
    _leave()


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def folder_of_one_run(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Hold a folder for all processes of this run; wait while another run holds it.

    A script that was killed may leave its Python running; the same command, given again, must not write beside it.
    """

    def agree(held: bool) -> bool:
        # asked again and again, since a collective that waits for hours ends in torch.distributed's timeout
        return bool(broadcast_object_list([held])[0])

    if accelerator.is_main_process:
        with held_by_one_run(folder, agree, WAIT_S):
            yield
    else:
        while not agree(False):
            time.sleep(WAIT_S)
        yield


def require_agreement(accelerator: Accelerator, what: str, value: Any) -> None:
    """Raise UserError in all processes where they see different values, as machines without shared storage do."""
    if len(set(gather_object([repr(value)]))) > 1:
        _leave()  # all of them end here: one whose peer is gone first would abort, and its status would be lost
        raise UserError(f"the processes see different {what}; all machines must use the same storage under the root")
