"""Files of a running fit: checkpoints, and the claim on its output directory."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bayeslora.checkpoint import FORMAT_VERSION, INTERRUPTED, LAYOUTS
from bayeslora.errors import InputError
from bayeslora.io.directories import FILES, atomic_directory, file_list, file_states, refuse_target
from bayeslora.io.files import read_json, real_path, remove, write_json

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"
SEAL = "files.json"

_FORMAT_VERSION = 1
_NAME = re.compile(r"checkpoint-([0-9]+)")


def seal(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files, which makes it complete."""
    files = file_list(checkpoint, without=(SEAL,))
    write_json(checkpoint / SEAL, {"format_version": _FORMAT_VERSION, FILES: files})


def write_best(directory: Path, step: int, state: Mapping[str, Tensor]) -> None:
    """Write the checkpoint of the best epoch, which needs only its tensors.

    Args:
        directory: Directory of the checkpoints.
        step: Number of training steps.
        state: The trained tensors.
    """
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file(dict(state), folder / WEIGHTS)
    seal(folder)


def checkpoint_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """Return the `trained_state()` stored in a checkpoint."""
    state: dict[str, Tensor] = load_file(Path(checkpoint) / WEIGHTS)
    return state


def best_state(checkpoint: str | Path) -> dict[str, Tensor] | None:
    """Return the tensors of the best epoch up to a checkpoint; None if none was chosen."""
    best = _best(Path(checkpoint))
    return None if best is None else checkpoint_state(best)


def last_checkpoint(directory: Path | None) -> str | None:
    """Return the newest usable checkpoint of a directory, which need not exist; None without one.

    Damaged or incomplete checkpoints are deleted with a warning.
    """
    folders = [] if directory is None else _checkpoints(directory)
    whole = {folder for folder in folders if _is_whole(folder)}
    usable = [folder for folder in folders if folder in whole and _is_usable(folder, whole)]
    last = usable[-1] if usable else None
    needed = set() if last is None else {last, _best(last)}
    lost = [folder for folder in folders if folder not in usable and folder not in needed]
    for folder in lost:
        remove(folder)
    if lost:
        start = "starts over" if last is None else f"resumes from {last.name}"
        names = ", ".join(folder.name for folder in lost)
        logger.warning("%s in %s: damaged or incomplete; training %s", names, directory, start)
    return None if last is None else str(last)


def forget_old(directory: Path) -> None:
    """Delete all checkpoints but the newest two and the best epoch of each.

    The second newest replaces the newest if that is damaged.
    """
    folders = _checkpoints(directory)
    needed = {*folders[-2:], *(_best(folder) for folder in folders[-2:])}
    for folder in folders:
        if folder not in needed:
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
    """Return whether a fit can resume from a complete checkpoint, its best epoch included."""
    if not (checkpoint / STATE).is_file():
        return False
    best = _best(checkpoint)
    return best is None or best in whole


def _best(checkpoint: Path) -> Path | None:
    """Return the checkpoint of the best epoch up to a complete checkpoint."""
    if not (checkpoint / STATE).is_file():
        return None
    state: Mapping[str, Any] = read_json(checkpoint / STATE)
    step = state.get("best_global_step")
    return None if step is None else checkpoint.parent / f"checkpoint-{step}"


_MARK = INTERRUPTED
_WORK = "checkpoints"


def claim(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Return the checkpoint directory of a fit into `out`, new or left by an interrupted fit.

    The caller locks `out` against other processes with `locks.lock`. A finished model that
    may be replaced stays unchanged beside the checkpoints until the new model replaces both.

    Args:
        out: Directory of the finished model.
        identity: Everything that determines the result, JSON-ready; a fit is resumed only if the
            interrupted one had the same.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: As `refuse`.
    """
    refuse(out, identity, overwrite=overwrite)
    folder = real_path(out)
    expected = _plain(identity)
    if not folder.exists():
        with atomic_directory(folder) as temporary:
            write_json(temporary / _MARK, expected)
    elif not _same(folder / _MARK, expected):
        # Before the new mark, under which checkpoints of another fit would count as ours.
        remove(folder / _WORK)
        write_json(folder / _MARK, expected)
    return folder / _WORK


def refuse(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Raise InputError if a fit may not write to `out`; arguments as for `claim`.

    Raises:
        InputError: `out` holds something else and `overwrite` is false, or it holds a file of
            neither a model nor an interrupted fit, which is never deleted.
    """
    folder = Path(out)
    mark = folder / _MARK
    is_fit = _content(mark) is not None
    refuse_target(folder, *LAYOUTS, overwrite=overwrite or is_fit)
    if not overwrite and is_fit and not _same(mark, _plain(identity)):
        raise InputError(
            f"{folder} contains an interrupted fit with another "
            f"{', '.join(_differences(mark, _plain(identity)))}; repeat its options, choose "
            "another --out, or pass --overwrite",
            code="another-fit",
        )


def restored(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Claim `out` again if it was deleted during the fit; return whether it was.

    Args:
        out: As for `claim`.
        identity: As for `claim`.
        overwrite: As for `claim`.

    Raises:
        InputError: `out` now holds something else.
        OSError: The directory cannot be created.
    """
    if is_interrupted(out):
        return False
    claim(out, identity, overwrite=overwrite)
    return True


def abandon(out: str | Path) -> None:
    """Delete the checkpoints of a failed fit, and `out` if it holds nothing else.

    Args:
        out: As for `claim`, which this process has called.
    """
    folder = real_path(out)
    (folder / _MARK).unlink(missing_ok=True)
    remove(folder / _WORK)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def is_interrupted(out: str | Path) -> bool:
    """Return whether `out` holds an unfinished fit."""
    return (Path(out) / _MARK).is_file()


def _plain(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it reads back from the mark."""
    return json.loads(json.dumps({"format_version": FORMAT_VERSION, **identity}))


def _same(mark: Path, expected: Mapping[str, Any]) -> bool:
    return _content(mark) is not None and not _differences(mark, expected)


def _differences(mark: Path, expected: Mapping[str, Any]) -> list[str]:
    # Unknown keys are not compared, such as the backbone's fingerprint before it is loaded.
    content = _content(mark) or {}
    return [key for key in expected if content.get(key) != expected[key]]


def _content(mark: Path) -> dict[str, Any] | None:
    """Return the content of a mark; None if it is missing or damaged."""
    try:
        content = read_json(mark)
    except InputError:
        return None
    return content if isinstance(content, dict) else None
