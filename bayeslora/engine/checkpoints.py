"""What a fit leaves on disk while it runs: checkpoints, and the directory it has claimed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bayeslora.checkpoint import FORMAT_VERSION, INTERRUPTED, LAYOUTS, is_model
from bayeslora.durable import remove, sync, sync_tree
from bayeslora.errors import InputError
from bayeslora.files import read_json, real_path, write_json
from bayeslora.manifest import FILES, file_list, file_states
from bayeslora.output import atomic_directory, refuse_target

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"
SEAL = "files.json"

_FORMAT_VERSION = 1
_NAME = re.compile(r"checkpoint-([0-9]+)")


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


_MARK = INTERRUPTED
_WORK = "checkpoints"


def claim(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Return the checkpoint directory of a fit into `out`, new or left by an interrupted one.

    The caller keeps other processes from `out`, with `locks.writing_to`. A finished model that may
    be replaced stays what it is, beside the checkpoints, until the new one is written over both.

    Args:
        out: Where the finished model will be.
        identity: Everything that decides the result, JSON-ready; a fit is resumed only where the
            interrupted one had the same.
        overwrite: Whether what is there may be replaced.

    Raises:
        InputError: As `refuse`.
    """
    refuse(out, identity, overwrite=overwrite)
    folder = real_path(out)
    wanted = _plain(identity)
    if not folder.exists():
        with atomic_directory(folder) as aside:
            write_json(aside / _MARK, wanted)
    elif not _same(folder / _MARK, wanted):
        if (folder / _MARK).is_file() and _content(folder / _MARK) is None:
            logger.warning("%s is damaged: the fit starts over", folder / _MARK)
        # Before the mark is new: under it, checkpoints of another fit would count as ours.
        remove(folder / _WORK)
        write_json(folder / _MARK, wanted)
    return folder / _WORK


def refuse(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Raise InputError if a fit may not go to `out`; arguments as for `claim`.

    Nothing is written; what a killed fit had replaced is cleaned up.

    Raises:
        InputError: `out` holds something else and `overwrite` is false, or a file that is neither
            of a model nor of an interrupted fit, which is never deleted.
    """
    folder = Path(out)
    mark = folder / _MARK
    is_readable = _content(mark) is not None
    goes_on = mark.is_file() and (is_readable or not is_model(folder))
    refuse_target(folder, *LAYOUTS, overwrite=overwrite or goes_on)
    if not overwrite and is_readable and not _same(mark, _plain(identity)):
        raise InputError(
            f"{folder} holds an interrupted fit with another "
            f"{', '.join(_differences(mark, _plain(identity)))}; "
            "repeat its options, choose another --out, or pass --overwrite",
            code="another-fit",
        )


def restored(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Claim `out` again if it was deleted during the fit; return whether it was.

    Args:
        out: As for `claim`.
        identity: As for `claim`.
        overwrite: As for `claim`.

    Raises:
        InputError: Something else is at `out` now.
        OSError: It cannot be made.
    """
    if is_interrupted(out):
        return False
    claim(out, identity, overwrite=overwrite)
    return True


def abandon(out: str | Path) -> None:
    """Delete the checkpoints of a fit that cannot end well, and `out` where it holds nothing else.

    Args:
        out: As for `claim`, which this process has called.
    """
    folder = real_path(out)
    (folder / _MARK).unlink(missing_ok=True)
    remove(folder / _WORK)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def is_interrupted(out: str | Path) -> bool:
    """Return whether `out` holds a fit that was begun and not finished."""
    return (Path(out) / _MARK).is_file()


def _plain(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it reads back from the mark."""
    return json.loads(json.dumps({"format_version": FORMAT_VERSION, **identity}))


def _same(mark: Path, wanted: Mapping[str, Any]) -> bool:
    return _content(mark) is not None and not _differences(mark, wanted)


def _differences(mark: Path, wanted: Mapping[str, Any]) -> list[str]:
    # What is not known yet, such as the backbone's fingerprint before it is loaded, is left open.
    found = _content(mark) or {}
    return [key for key in wanted if found.get(key) != wanted[key]]


def _content(mark: Path) -> dict[str, Any] | None:
    """Return the content of a mark; None where it is missing or damaged."""
    try:
        found = read_json(mark)
    except InputError:
        return None
    return found if isinstance(found, dict) else None
