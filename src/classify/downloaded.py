"""Downloaded weights, compared with what they were at each load: torch compares eight digits, and only at download.

Their full digests are not known here. So the SHA-256 of the first load, which must begin with the digits in the file's
name, is recorded beside the file, as `sha256sum -c` reads it, and compared at each later load.
"""

import logging
import re
from pathlib import Path

from src.errors import UserError
from src.files.atomic import replacing
from src.files.checksum import file_sha256

_log = logging.getLogger(__name__)

_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")  # as torch.hub finds them


def record_of(path: Path) -> Path:
    """Where the SHA-256 of a file is recorded."""
    return path.with_name(f"{path.name}.sha256")


def require_as_downloaded(path: Path) -> None:
    """Raise UserError where a file's SHA-256 is not the recorded one, or does not begin as its name says.

    Without a record one is made, with a warning where that is not possible, as in a folder that is only for reading.
    """
    found, record = file_sha256(path), record_of(path)
    digits = _DIGITS_IN_NAME.search(path.name)
    expected = [digits[1]] if digits else []
    if record.is_file():
        expected.append(_recorded(record))
    for digest in expected:
        if not found.startswith(digest):
            raise UserError(
                f"{path} is damaged or was changed: expected a SHA-256 of {digest}, found {found}; delete it and "
                f"{record.name} beside it, and it is fetched again"
            )
    if not record.is_file():
        try:
            with replacing(record) as temporary:
                temporary.write_text(f"{found}  {path.name}\n", encoding="utf-8")
        except OSError as error:
            _log.warning("%s: the SHA-256 of these weights cannot be recorded (%s)", record, error.strerror)


def _recorded(record: Path) -> str:
    found = re.match(r"[0-9a-f]{64}\b", record.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise UserError(f"{record} holds no SHA-256; delete it if you trust the file beside it")
    return found[0]
