"""Run a module in several processes on this machine: torchrun, with the exit status of what it runs."""

import argparse
import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from src.arguments import Parser, positive
from src.errors import STOPPED_RESUMABLE, run_command


def launch(processes: int, module: str, arguments: list[str]) -> int:
    """Run `python -m module arguments` as `processes` ranks of torch.distributed, and return an exit status.

    It is 0, that of the first rank to fail (2 for a user's mistake), or 75 where this process was told to stop.
    """
    # the ranks say themselves what went wrong, in one line; torchrun would add forty
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    given = ["--standalone", "--nproc-per-node", str(processes), "--module", module, *arguments]
    try:
        run(get_args_parser().parse_args(given))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status  # a signal's number, as the shell gives it
    except SignalException:
        return STOPPED_RESUMABLE
    return 0


def main() -> None:
    """Read arguments, launch."""
    parser = Parser(
        prog="python -m src.classify.launch",
        description=__doc__,
        epilog="example: python -m src.classify.launch 2 src.classify.train conf/efficientnet-b2.yaml --fold 0",
    )
    parser.add_argument("processes", type=positive, help="how many, usually one a GPU")
    parser.add_argument("module", help="the module to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args()
    sys.exit(launch(args.processes, args.module, args.arguments))


if __name__ == "__main__":
    run_command(main)
