"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, it takes the place of `path` in one step.

    On an exception nothing of it stays, and what was at `path` before is untouched. The folder is made if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the process id keeps two runs apart; the suffix stays last because some writers look at it
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
