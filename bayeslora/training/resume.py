"""An output directory that is new, interrupted, finished, or somebody else's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayeslora.checkpoint import FORMAT_VERSION, INTERRUPTED, LAYOUTS
from bayeslora.durable import remove
from bayeslora.errors import InputError
from bayeslora.files import read_json, real_path, refuse_existing, refuse_ground, write_json
from bayeslora.output import atomic_directory, refuse_foreign
from bayeslora.tasks.examples import Examples

_MARK = INTERRUPTED
_WORK = "checkpoints"


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
        # Before the mark is new: under it, checkpoints of another fit would count as ours.
        remove(folder / _WORK)
        write_json(folder / _MARK, wanted)
    return folder / _WORK


def refuse(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Raise InputError if a fit may not go to `out`; arguments as for `claim`, nothing is written.

    Raises:
        InputError: `out` holds something else and `overwrite` is false, or a file that is neither
            of a model nor of an interrupted fit, which is never deleted.
    """
    folder = Path(out)
    mark = folder / _MARK
    if not mark.is_file():
        refuse_existing(folder, overwrite=overwrite)
    refuse_ground(folder)
    refuse_foreign(folder, *LAYOUTS)
    if not overwrite and mark.is_file() and not _same(mark, _plain(identity)):
        raise InputError(
            f"{folder} holds an interrupted fit with another "
            f"{', '.join(_differences(mark, _plain(identity)))}; "
            "repeat its options, choose another --out, or pass --overwrite"
        )


def is_interrupted(out: str | Path) -> bool:
    """Return whether `out` holds a fit that was begun and not finished."""
    return (Path(out) / _MARK).is_file()


def last_checkpoint(directory: Path) -> str | None:
    """Return the newest whole checkpoint of a directory, which need not exist; delete broken ones.

    The Trainer writes its state last: without it, the process was killed while it wrote.
    """
    from transformers.trainer import TRAINER_STATE_NAME
    from transformers.trainer_utils import get_last_checkpoint

    if not directory.is_dir():
        return None
    for folder in directory.glob("checkpoint-*"):
        if not _is_json(folder / TRAINER_STATE_NAME):
            shutil.rmtree(folder)
    found: str | None = get_last_checkpoint(str(directory))  # type: ignore[no-untyped-call]
    if found is not None:
        _find_best_again(Path(found) / TRAINER_STATE_NAME)
    return found


def _find_best_again(path: Path) -> None:
    """Let a checkpoint name the best one where that is now.

    The Trainer stores its place when it is written, and without it keeps the last epoch's weights.
    """
    state = read_json(path)
    best = state.get("best_model_checkpoint")
    here = None if best is None else str(path.parent.parent / Path(best).name)
    if here != best:
        write_json(path, {**state, "best_model_checkpoint": here})


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except InputError:
        return False
    return True


def _plain(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it reads back from the mark."""
    return json.loads(json.dumps({"format_version": FORMAT_VERSION, **identity}))


def _same(mark: Path, wanted: Mapping[str, Any]) -> bool:
    return mark.is_file() and not _differences(mark, wanted)


def _differences(mark: Path, wanted: Mapping[str, Any]) -> list[str]:
    # What is not known yet, such as the backbone's fingerprint before it is loaded, is left open.
    found = read_json(mark)
    return [key for key in wanted if found.get(key) != wanted[key]]
