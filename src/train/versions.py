"""What a training ran on: versions, revision and hardware, saved beside its weights."""

import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
import yaml
from xxhash import xxh3_64_hexdigest

from src.documents import parse_yaml, read_text
from src.errors import UserError
from src.files.atomic import replacing

_ENTRY = "- since: "  # what the text of an entry begins with


def note_versions(path: Path, since: str, processes: int, seal: str = "") -> str:
    """Append to a file what the training runs on from now on, unless the last entry is the same; return its new seal.

    since: the point in the training from which it applies; an interrupted fold may be resumed elsewhere. seal: that an
    earlier call returned, of what the file began with then; empty where there is none. Raises UserError for a file that
    is no such list, or that has changed since.
    """
    advice = f"; delete {path}, which only says what the training ran on"
    noted = read_text(path, advice=advice) if path.is_file() else ""
    length, _, digest = seal.partition(":")
    if noted and seal and seal_of(noted.encode()[: int(length)].decode(errors="replace")) != seal:
        raise UserError(f"{path} is damaged: it does not have the checksum {digest} any more{advice}")
    now = {"processes": processes, **versions()}
    if _last_entry(noted, path, advice) != now:
        noted += yaml.safe_dump([{"since": since, **now}], sort_keys=False)
        with replacing(path) as temporary:
            temporary.write_text(noted, encoding="utf-8")
    return seal_of(noted)


def seal_of(text: str) -> str:
    """The length of a text in bytes and a hash of it, by which a longer one can be told to begin with it."""
    data = text.encode()
    return f"{len(data)}:{xxh3_64_hexdigest(data)}"


def _last_entry(noted: str, path: Path, advice: str) -> dict[str, Any] | None:
    """What the last entry says, but for `since`; None where there is none. Raises UserError where it is no entry."""
    if not noted:
        return None
    at = noted.rfind(f"\n{_ENTRY}") + 1  # the entries before are left as they are
    entries = parse_yaml(noted[at:], str(path), advice=advice)
    if not (noted.startswith(_ENTRY) and noted.endswith("\n") and isinstance(entries, list) and len(entries) == 1):
        raise UserError(f"{path}: expected a list of what the training ran on, each entry with `since`{advice}")
    entry = entries[0]
    return {key: value for key, value in entry.items() if key != "since"} if isinstance(entry, dict) else {}


def versions() -> dict[str, Any]:
    """The project's git revision, the interpreter, the device and all installed packages."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "revision": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "packages": dict(sorted((each.metadata["Name"], each.version) for each in distributions())),
    }


def revision() -> str | None:
    """The git revision of this code, with `-dirty` where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
