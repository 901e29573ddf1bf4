"""Checkpoints of a fit: which of them are whole, and which are still needed.

Each checkpoint lists size and SHA-256 of its files in `files.json`, written last and only once the
files are on the disk. A checkpoint without a valid list, or whose best epoch is not whole, is
discarded, and the fit goes on from the one before: its result is that of an uninterrupted fit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bayeslora.durable import remove, sync, sync_tree
from bayeslora.errors import InputError
from bayeslora.files import read_json, write_json
from bayeslora.manifest import FILES, file_list, file_states

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"
SEAL = "files.json"

_FORMAT_VERSION = 1
_NAME = re.compile(r"checkpoint-([0-9]+)")

logger = logging.getLogger(__name__)


def seal(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files, once they are on the disk."""
    sync_tree(checkpoint)
    files = file_list(checkpoint, without=(SEAL,))
    write_json(checkpoint / SEAL, {"format_version": _FORMAT_VERSION, FILES: files})
    sync(checkpoint.parent)


def write_best(directory: Path, step: int, state: Mapping[str, Tensor]) -> None:
    """Write the checkpoint of the best epoch with nothing but its tensors, which are all it needs.

    Args:
        directory: Of the checkpoints.
        step: Steps after which the tensors were trained.
        state: The tensors.
    """
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file(dict(state), folder / WEIGHTS)
    seal(folder)


def checkpoint_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the `trained_state()` that a checkpoint's directory holds."""
    state: dict[str, Tensor] = load_file(Path(checkpoint) / WEIGHTS)
    return state


def best_state(checkpoint: str | Path) -> dict[str, Tensor] | None:
    """Return the tensors of the best epoch up to a checkpoint; None where none was chosen."""
    best = _best(Path(checkpoint))
    return None if best is None else checkpoint_state(best)


def last_checkpoint(directory: Path) -> str | None:
    """Return the newest usable checkpoint of a directory, which need not exist.

    Those that are damaged or incomplete are deleted, which is said once.
    """
    found = _checkpoints(directory)
    whole = {folder for folder in found if _is_whole(folder)}
    usable = [folder for folder in found if folder in whole and _is_usable(folder, whole)]
    last = usable[-1] if usable else None
    needed = set() if last is None else {last, _best(last)}
    lost = [folder for folder in found if folder not in usable and folder not in needed]
    for folder in lost:
        remove(folder)
    if lost:
        start = "starts over" if last is None else f"goes on from {last.name}"
        names = ", ".join(folder.name for folder in lost)
        logger.warning("%s in %s: damaged or incomplete; the fit %s", names, directory, start)
    return None if last is None else str(last)


def forget_old(directory: Path) -> None:
    """Delete all checkpoints but the newest two and the best epoch of each.

    The second newest takes over where the newest is damaged.
    """
    found = _checkpoints(directory)
    kept = {*found[-2:], *(_best(folder) for folder in found[-2:])}
    for folder in found:
        if folder not in kept:
            remove(folder)


def _checkpoints(directory: Path) -> list[Path]:
    """Return the directories of checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    steps = {path: _NAME.fullmatch(path.name) for path in directory.iterdir() if path.is_dir()}
    numbered = {path: int(match[1]) for path, match in steps.items() if match}
    return sorted(numbered, key=numbered.__getitem__)


def _is_whole(checkpoint: Path) -> bool:
    try:
        content = read_json(checkpoint / SEAL)
        states = file_states(checkpoint, content[FILES], without=(SEAL,))
        known = content["format_version"] == _FORMAT_VERSION
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        return False
    return known and bool(states) and all(item.state in ("ok", "not listed") for item in states)


def _is_usable(checkpoint: Path, whole: set[Path]) -> bool:
    """Return whether a fit can go on from a whole checkpoint: its best epoch is whole too."""
    if not (checkpoint / STATE).is_file():
        return False
    best = _best(checkpoint)
    return best is None or best in whole


def _best(checkpoint: Path) -> Path | None:
    """Return the checkpoint of the best epoch up to a whole one."""
    if not (checkpoint / STATE).is_file():
        return None
    state: Mapping[str, Any] = read_json(checkpoint / STATE)
    step = state.get("best_global_step")
    return None if step is None else checkpoint.parent / f"checkpoint-{step}"
