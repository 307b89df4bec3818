"""Files that appear whole or not at all, and folders that one run at a time fills."""

import fcntl
import glob
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, sweep: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, it takes the place of `path` in one step.

    On an exception nothing of it stays, and what was at `path` before is untouched. The folder is made if missing.
    What a killed run left of the same file is cleared away first; without `sweep` it is not looked for, which takes
    long in a folder of many files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sweep:
        sweep_partials(path.parent, path)
    # the token keeps two writers apart, on other machines too; the suffix stays last because some writers look at it
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk does not say which file it was
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep_partials(folder: Path, path: Path | None = None) -> None:
    """Delete what killed runs left half-written in a folder: of one file, or of all."""
    pattern = ".*.partial*" if path is None else f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"
    for partial in folder.glob(pattern):
        partial.unlink(missing_ok=True)


@contextmanager
def held_by_one_run(folder: Path, agree: Callable[[bool], bool] = bool, wait_s: float = 0.2) -> Iterator[None]:
    """Hold a folder, made if missing, for one run: a second one says so and waits.

    The hold ends with the process, however that ends: a run whose script was killed may live on for a while.
    agree: given at each look whether this process has the folder, says whether to go on; called until it says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        said = False
        while not agree(_lock(descriptor)):
            if not said:
                print(f"{folder} is being filled by another run; waiting for its end", file=sys.stderr, flush=True)
            said = True
            time.sleep(wait_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: two runs there write the same files twice, but whole
    return True
