"""A temporary folder that lasts as long as its run, and what runs leave that were killed."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.files.atomic import try_lock

_NAME = "intracranial-hemorrhage-run-"
_SEMAPHORES = Path("/dev/shm")  # noqa: S108 - where Linux keeps named semaphores
_NAMED = "semaphores.txt"  # in the folder: the names of those that this run's workers use


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder of this process; first delete those of processes of this user that were killed.

    A process holds a lock on its folder, which ends with the process, however it ends.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_NAME, ignore_cleanup_errors=True) as folder:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            try_lock(descriptor)
            yield Path(folder)
        finally:
            os.close(descriptor)


def note_semaphores(folder: Path) -> None:
    """Note the semaphores of this process's workers, by which the next run tells them from those of others.

    loky names them after the process, and deletes them in a helper process, which a kill of the whole group ends too.
    """
    if _SEMAPHORES.is_dir():
        names = [path.name for path in _SEMAPHORES.glob(f"sem.loky-{os.getpid()}-*")]
        (folder / _NAMED).write_text("\n".join(names))


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
