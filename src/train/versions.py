"""What a training ran on: versions, revision and hardware, saved beside its weights."""

import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
import yaml

from src.files.atomic import replacing


def note_versions(path: Path, since: str, processes: int) -> None:
    """Append to a file what the training runs on from now on, unless the last entry is the same.

    since: the point in the training from which it applies; an interrupted fold may be resumed elsewhere.
    """
    noted: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []
    now = {"processes": processes, **versions()}
    if noted and {key: value for key, value in noted[-1].items() if key != "since"} == now:
        return
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump([*noted, {"since": since, **now}], sort_keys=False), encoding="utf-8")


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
