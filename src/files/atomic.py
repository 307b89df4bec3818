"""Atomic writes of files and folders, and a lock that lets one run at a time fill a folder."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path, *, sweep: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` atomically when the block ends.

    If the block raises, the temporary file is deleted and the previous file at `path` stays as it was. The folder is
    created if it is missing. Partial files that a killed run left of the same file are deleted first; without `sweep`
    they are not searched for, because that is slow in a folder of many files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if sweep:
        sweep_partials(path.parent, path)
    temporary, owned = _make_partial(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if not temporary.stat().st_size:
            raise FileNotFoundError(errno.ENOENT, "nothing was written", str(path))
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # the error of a full disk does not name the file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(owned)


def _make_partial(path: Path) -> tuple[Path, int]:
    """Make an empty partial file: (its path, a descriptor by which this process holds a lock on it).

    By the lock others tell a file that is being written from one that a killed run left.
    """
    while True:
        # the token keeps writers apart, also across machines; the suffix stays last because some writers depend on it
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if try_lock(descriptor) is not False and temporary.exists():
            return temporary, descriptor
        os.close(descriptor)  # another run swept it in the moment before it was locked


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on leaving, it takes the place of `path`, which may be a link to a folder.

    What is there before must be the caller's to replace. On an exception nothing of the temporary folder stays, and
    what was at `path` is untouched. A run that is killed between the two renames leaves the previous folder aside; the
    next one puts it back first.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with held_by_one_run(path.parent):
        aside = path.with_name(f".{path.name}.previous")
        if aside.exists() and not path.exists():
            aside.rename(path)
        for partial in path.parent.glob(f".{glob.escape(path.name)}.????????.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            temporary.rename(path)
        except BaseException:  # also a signal's, between the two
            if aside.exists() and not path.exists():
                aside.rename(path)
            raise
        else:
            if aside.exists():
                # under a name that nobody puts back: a half deleted one must not pass for the folder
                gone = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
                aside.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep_partials(folder: Path, path: Path | None = None) -> None:
    """Delete the partial files that killed runs left in a folder: those of one file, or all of them.

    Those that another run is writing at this moment stay.
    """
    pattern = ".*.partial*" if path is None else f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"
    for partial in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            descriptor = os.open(partial, os.O_RDWR)
            try:
                if try_lock(descriptor) is True:
                    partial.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


@contextmanager
def held_by_one_run(folder: Path, agree: Callable[[bool], bool] = bool, wait_s: float = 0.2) -> Iterator[None]:
    """Lock a folder for one run; a second run logs a warning and waits. The folder is created if it is missing.

    The lock lasts until the process ends, however it ends: a run may live on for a while after its script was killed.
    agree: takes whether this process has the lock and returns whether to go on; it is called until it returns True.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        said = False
        while True:
            held = try_lock(descriptor) is not False
            if held and not _is_still(folder, descriptor):  # it was deleted while this run waited
                os.close(descriptor)
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder, os.O_RDONLY)
                continue
            if agree(held):
                break
            if not said:
                _log.warning("%s is being filled by another run; waiting for its end", folder)
            said = True
            time.sleep(wait_s)
        yield
    finally:
        os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def try_lock(descriptor: int) -> bool | None:
    """Whether the lock on a file or folder is this process's now; None where the file system has no locks.

    Without locks two runs write the same files twice, but each file atomically.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
