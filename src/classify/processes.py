"""What several processes of one run must agree on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from src.errors import Stopped, UserError
from src.files.atomic import held_by_one_run

WAIT_S = 1.0


@contextmanager
def leaving_together() -> Iterator[None]:
    """Leave torch.distributed in an orderly way where a command ends well or stops: its threads would abort the exit.

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
    """Hold a folder for all processes of this run; where another run has it, wait for its end.

    A script that was killed may leave its Python running, and the same command, given again, must not write beside it.
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
    """Raise UserError in all processes where they see different things, as machines without shared storage do."""
    if len(set(gather_object([repr(value)]))) > 1:
        _leave()  # all of them end here: one whose peer is gone first would abort, and its status would be lost
        raise UserError(f"the processes see different {what}: --root must be the same storage on all machines")
