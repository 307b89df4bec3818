"""A temporary folder that lasts as long as its run, and what runs leave that were killed."""

import atexit
import contextlib
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

from src.files.atomic import try_lock

_NAME = "intracranial-hemorrhage-run-"
_SEMAPHORES = Path("/dev/shm")  # noqa: S108 - where Linux keeps named semaphores
_NAMED = "semaphores.txt"  # in the folder: the names of those that this run's workers use


def scratch_folder() -> Path:
    """A temporary folder of this process, the same at each call, deleted when the process ends.

    The first call deletes those of processes of this user that were killed. A process holds a lock on its folder, which
    ends with the process, however it ends.
    """
    return _folder_of(os.getpid())


@cache
def _folder_of(pid: int) -> Path:
    _sweep()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_NAME))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            if try_lock(descriptor) is not False and folder.exists():
                atexit.register(_delete, folder, pid)
                return folder
            os.close(descriptor)  # another run swept it in the moment before it was locked


def _delete(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def note_semaphores() -> None:
    """Note in this process's folder the semaphores of its workers: the next run deletes no others.

    loky names them after the process, and deletes them in a helper process, which a kill of the whole group ends too.
    """
    if _SEMAPHORES.is_dir():
        names = [path.name for path in _SEMAPHORES.glob(f"sem.loky-{os.getpid()}-*")]
        (scratch_folder() / _NAMED).write_text("\n".join(names))


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        with contextlib.suppress(OSError):  # another run sweeps it too, or it is another user's
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid() and try_lock(descriptor) is True:
                    _delete_semaphores(folder / _NAMED)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _delete_semaphores(noted: Path) -> None:
    names = noted.read_text().split() if noted.is_file() else []
    for name in names:
        if re.fullmatch(r"sem\.loky-\d+-\w+", name):
            with contextlib.suppress(OSError):
                (_SEMAPHORES / name).unlink()
