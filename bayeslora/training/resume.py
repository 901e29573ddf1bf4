"""An output directory that is new, interrupted, finished, or somebody else's."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayeslora.checkpoint import FORMAT_VERSION, INTERRUPTED, LAYOUTS, is_model
from bayeslora.durable import remove
from bayeslora.errors import InputError
from bayeslora.files import read_json, real_path, write_json
from bayeslora.output import atomic_directory, refuse_target
from bayeslora.tasks.examples import Examples

_MARK = INTERRUPTED
_WORK = "checkpoints"

logger = logging.getLogger(__name__)


def data_hash(examples: Examples) -> str:
    """Return a hash of texts and labels, in their order."""
    digest = hashlib.sha256()
    parts: Iterable[Any] = zip(
        examples.texts, examples.pairs or [None] * len(examples), examples.labels, strict=True
    )
    for part in parts:
        digest.update(json.dumps(part, ensure_ascii=False).encode())
    return digest.hexdigest()[:32]


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
            "repeat its options, choose another --out, or pass --overwrite"
        )


def restored(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Claim `out` again if somebody has deleted it during the fit; return whether they had.

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
