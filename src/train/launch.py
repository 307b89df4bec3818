"""Run a module in several processes, on one or more machines, with torchrun, and exit with the module's status."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import get_args_parser, run

from src.arguments import Parser, positive
from src.errors import STOPPED_RESUMABLE, UserError, run_command

# Seconds that a step and a save may take after a signal, before ranks are killed: torchrun's 30 are too few for a CPU,
# but the time must be limited, because a GPU may wait for another one that has stopped.
STOP_S = 120
STAY_S = 5.0  # seconds that other machines may take to exit after the same step


def launch(processes: int, module: str, arguments: list[str], machines: Sequence[str] = ("--standalone",)) -> int:
    """Run `python -m module arguments` as `processes` ranks of torch.distributed, and return an exit status.

    machines: torchrun's arguments about the other machines, on which the same command is run.

    The status is 0, that of the first rank to fail (2 for a user's mistake), or 75 where this process was told to stop.
    """
    # each rank reports its error itself, in one line; torchrun would add forty lines
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    given = [*machines, "--nproc-per-node", str(processes), "--shutdown-timeout", str(STOP_S)]
    given += ["--module", module, *arguments]
    try:
        run(get_args_parser().parse_args(given))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status == STOPPED_RESUMABLE:
            _stay(machines)
        return status if status > 0 else 128 - status  # 128 plus the number of a signal, as in a shell
    except SignalException:
        _stay(machines)
        return STOPPED_RESUMABLE
    except (RendezvousError, torch.distributed.DistError) as error:
        raise UserError(f"the machines did not meet, or lost each other: {error}") from error
    return 0


def _stay(machines: Sequence[str]) -> None:
    """Wait a while before exiting, if there are other machines.

    All ranks end after the same step, but one machine hosts the rendezvous, and the others need it until their ranks
    have ended. The rendezvous is kept only while torchrun's exception is being handled.
    """
    if "--standalone" not in machines:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's handler is still installed
        time.sleep(STAY_S)


def main() -> None:
    """Read the arguments and launch the module."""
    parser = Parser(
        prog="python -m src.train.launch",
        description=__doc__,
        epilog="example: python -m src.train.launch 2 src.classify.train conf/efficientnet-b2.yaml --fold 0",
    )
    parser.add_argument("--nnodes", type=positive, help="number of machines; run this command on each (default 1)")
    parser.add_argument("--rdzv-endpoint", metavar="HOST:PORT", help="where they meet: a free port on one machine")
    parser.add_argument("--rdzv-id", default="1", help="identifier of this run, if several runs use the same endpoint")
    parser.add_argument("processes", type=positive, help="number of processes on this machine, usually one per GPU")
    parser.add_argument("module", help="the module to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args()
    if (args.nnodes is None) != (args.rdzv_endpoint is None):
        parser.error("--nnodes and --rdzv-endpoint go together")
    machines = ["--standalone"]
    if args.nnodes is not None:
        machines = ["--nnodes", str(args.nnodes), "--rdzv-backend", "c10d"]
        machines += ["--rdzv-endpoint", args.rdzv_endpoint, "--rdzv-id", args.rdzv_id]
    sys.exit(launch(args.processes, args.module, args.arguments, machines))


def _end(status: object) -> NoReturn:
    """Exit without the interpreter's teardown, in which a thread of torch's rendezvous can abort the process.

    All processes that it started have ended by then, and have saved what they had to.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    try:
        run_command(main)
    except SystemExit as end:
        _end(end.code)
