"""What a fold's folder says of a training: none, one that is whole, or one that was begun and may go on."""

from dataclasses import dataclass
from typing import Any

from src.classify.checkpoint import read_trained_on
from src.classify.state import read_state
from src.config import TrainingConf, changed_keys
from src.errors import UserError
from src.files.layout import FoldFolder

# Keys that may change under a half-trained fold: they say how fast it goes, or what prediction does, not where it goes.
_HARMLESS_KEYS = {"workers", "save_steps", "tta"}


@dataclass(frozen=True)
class Begun:
    """finished: every epoch has its checkpoint and nothing is left to resume; state: of `read_state`, where there is
    one.
    """

    finished: bool
    state: dict[str, Any] | None


def read_begun(config: TrainingConf, folder: FoldFolder, trained_on: str) -> Begun:
    """Look at what an earlier run left. trained_on: a word for what it is trained on, such as Slices.fingerprint.

    Raises UserError where that is the beginning of another training. A failed start is no beginning.
    """
    paths = [folder.checkpoint(epoch) for epoch in range(1, config.epochs + 1)]
    checkpoints = [path for path in paths if path.is_file()]
    state = read_state(folder.state) if folder.state.is_file() else None
    if not checkpoints and state is None:
        return Begun(False, None)
    remedy = f"delete {folder.path} to train anew"
    if folder.conf.is_file():
        changed = set(changed_keys(config, folder.conf.read_text(encoding="utf-8"))) - _HARMLESS_KEYS
        if changed:
            raise UserError(
                f"{folder.path} was begun with another {', '.join(sorted(changed))} ({folder.conf} says which); "
                f"change it back, or {remedy}"
            )
    begun_on = {read_trained_on(path) for path in checkpoints}
    if state is not None:
        begun_on.add(state["trained_on"])
    if begun_on != {trained_on}:
        raise UserError(
            f"{folder.path} was trained on other slices, folds or labels than {folder.path.name} has now, or on "
            f"embeddings by another network; {remedy}"
        )
    return Begun(state is None and len(checkpoints) == len(paths), state)
