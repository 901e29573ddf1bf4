"""Cache of derived files between runs; all of them can be recomputed and may be deleted.

Each kind of entry has its own directory, with files named by a hash of everything that determines
their content. Files are written atomically, and reading a file marks it as used: beyond the size
limit, the least recently used files are deleted first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bayeslora.errors import InputError
from bayeslora.io.files import PART, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "BAYESLORA_CACHE"
SIZE_VARIABLE = "BAYESLORA_CACHE_GIB"
_DEFAULT_GIB = 2.0

FROZEN_STATES = "frozen-states"
"""Kind of cached files: outputs of the frozen layers, for the next fit to the same texts."""

_SUFFIX = ".safetensors"


def cache_directory() -> Path:
    """Return the cache directory: `BAYESLORA_CACHE`, else one in the user's cache directory."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayeslora"


def most_bytes() -> int:
    """Return the size limit of each kind except backbones: `BAYESLORA_CACHE_GIB`, else 2 GiB.

    Raises:
        InputError: The variable is not a number.
    """
    chosen = os.environ.get(SIZE_VARIABLE) or _DEFAULT_GIB
    try:
        return int(float(chosen) * (1 << 30))
    except (ValueError, OverflowError):
        raise InputError(f"{SIZE_VARIABLE} must be a number of GiB, got {chosen!r}") from None


def kept_file(kind: str, key: str) -> Path:
    """Return the path of the cached file for a key, which need not exist."""
    return cache_directory() / kind / f"{key}{_SUFFIX}"


def may_keep(num_bytes: int) -> bool:
    """Return whether a file of this size may be cached: at most half the limit, for two runs.

    Raises:
        InputError: As `most_bytes`.
    """
    return 0 < num_bytes <= most_bytes() // 2


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a cached file; None if there is none, or with a warning if damaged."""
    if not path.is_file():
        return None
    try:
        tensors = read_tensors(path)
    except (OSError, InputError) as error:
        logger.warning("%s; it is computed again", error)
        return None
    mark_used(path)
    return tensors


def keep_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a cached file unless they are too large; a failure is only a warning."""
    if not may_keep(sum(tensor.nbytes for tensor in tensors.values())):
        return
    try:
        make_room(path)
        write_tensors(path, tensors)
        mark_used(path)
    except (OSError, InputError) as error:
        logger.warning("cannot cache %s: %s", path, error)


def make_room(path: Path) -> None:
    """Create the directory of a file about to be written, accessible to its owner only."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):
        path.parent.chmod(0o700)


def mark_used(path: Path) -> None:
    """Mark a file as used, and delete the least recently used files beyond the size limit.

    Other processes may use or delete the same files concurrently.
    """
    with suppress(OSError):  # another user's cache is read-only; another process may delete it
        os.utime(path)
        # Also the temporary files that killed writers left.
        files = [file for file in path.parent.iterdir() if file.suffix in (_SUFFIX, PART)]
        sizes = {file: file.stat().st_size for file in files}
        for file in sorted(files, key=lambda file: file.stat().st_mtime):
            if sum(sizes.values()) > most_bytes() and file != path:
                file.unlink()
                del sizes[file]
