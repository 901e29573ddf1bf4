"""An output directory that is new, interrupted, finished, or somebody else's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import read_json, write_json
from bayeslora.tasks.examples import Examples

_MARK = "interrupted-fit.json"
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

    Args:
        out: Where the finished model will be.
        identity: Everything that decides the result, JSON-ready; a fit is resumed only where the
            interrupted one had the same.
        overwrite: Whether what is there may be deleted.

    Raises:
        InputError: `out` holds something else and `overwrite` is false.
    """
    folder = Path(out)
    mark = folder / _MARK
    wanted = json.loads(json.dumps(identity))
    if overwrite and folder.exists() and not _same(mark, wanted):
        shutil.rmtree(folder)
    if not folder.exists():
        write_json(mark, wanted)
    elif not mark.is_file():
        raise InputError(f"{folder} exists; choose another --out or pass --overwrite")
    elif not _same(mark, wanted):
        raise InputError(
            f"{folder} holds an interrupted fit with another {_difference(mark, wanted)}; "
            "repeat its options, choose another --out, or pass --overwrite"
        )
    return folder / _WORK


def is_interrupted(out: str | Path) -> bool:
    """Return whether `out` holds a fit that was begun and not finished."""
    return (Path(out) / _MARK).is_file()


def _same(mark: Path, wanted: Any) -> bool:
    return mark.is_file() and read_json(mark) == wanted


def _difference(mark: Path, wanted: Mapping[str, Any]) -> str:
    found = read_json(mark)
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return ", ".join(keys) or "configuration"
