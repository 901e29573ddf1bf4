"""Files kept on disk between runs. All of it can be made again, and any of it may be deleted.

A kind of thing has a directory of its own, whose files are named by a hash of everything that
decides their content. A file is written whole or not at all, and reading one marks it as used, so
that the least recently used goes first where more is kept than may be.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bayeslora.errors import InputError

DIRECTORY_VARIABLE = "BAYESLORA_CACHE"
SIZE_VARIABLE = "BAYESLORA_CACHE_GIB"
_DEFAULT_GIB = 2.0

FROZEN_STATES, SECOND_MOMENTS, BACKBONES = "frozen-states", "second-moments", "backbones"
KINDS: Mapping[str, str] = {
    FROZEN_STATES: "texts as the frozen layers leave them, for the next fit of the same rows",
    SECOND_MOMENTS: "statistics of a context that adapters start from",
    BACKBONES: "de-quantised weights of embedded models, a minute to make again",
}
"""Kinds of files that are kept."""

WEIGHTS_CHECKSUM = "model.safetensors.sha256"
"""The file beside de-quantised weights by which their directory is known as ours."""

_SUFFIX = ".safetensors"
# What nobody has written to for so long is a killed writer's.
_WRITING_SECONDS = 3600.0
# A short name and the beginning of a hash, as `embedded_directory` makes it.
_BACKBONE = re.compile(r"[a-z0-9.-]+-[0-9a-f]{16}")


@dataclass(frozen=True)
class Kept:
    """All things of one kind.

    Attributes:
        kind: A member of `KINDS`.
        paths: Files, or directories of backbones.
        num_bytes: Size of all of them.
    """

    kind: str
    paths: tuple[Path, ...]
    num_bytes: int


def cache_directory() -> Path:
    """Return where derived files are kept: `BAYESLORA_CACHE`, else the user's cache directory."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayeslora"


def most_bytes() -> int:
    """Return how much may be kept of each kind but backbones: `BAYESLORA_CACHE_GIB`, else 2 GiB.

    Raises:
        InputError: The variable is no number from 0 to a million.
    """
    chosen = os.environ.get(SIZE_VARIABLE, "")
    try:
        gib = float(chosen.replace("_", "x")) if chosen else _DEFAULT_GIB
    except ValueError:
        gib = -1.0
    if not 0 <= gib <= 1e6:
        raise InputError(
            f"{SIZE_VARIABLE} must be a number of GiB from 0 (nothing is kept) to a million, got "
            f"{chosen!r}"
        )
    return int(gib * (1 << 30))


def kept_file(kind: str, key: str) -> Path:
    """Return where the file of a key is, or would be."""
    return cache_directory() / kind / f"{key}{_SUFFIX}"


def may_keep(num_bytes: int) -> bool:
    """Return whether one file may be so large: half of the limit, so that two runs have room.

    Raises:
        InputError: As `most_bytes`.
    """
    return 0 < num_bytes <= most_bytes() // 2


def make_room(path: Path) -> None:
    """Make the directory of a file that is about to be written, for its owner's eyes alone."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):
        path.parent.chmod(0o700)


def mark_used(path: Path) -> None:
    """Mark a file as just used, and delete those that were not used for longest.

    Another process may delete or use the same files.
    """
    with suppress(OSError):  # a cache that others own may be read; another process may delete it
        os.utime(path)
    files = {}
    for other in _files(path.parent):
        try:
            found = other.stat()
        except OSError:
            continue
        files[other] = (found.st_mtime, found.st_size)
    excess = sum(size for _, size in files.values()) - most_bytes()
    for other in sorted(files.keys() - {path}, key=lambda other: files[other]):
        if excess <= 0:
            return
        excess -= files[other][1]
        with suppress(OSError):
            other.unlink()


def kept() -> list[Kept]:
    """Return what is there, by kind.

    Raises:
        InputError: The directory is something else, where nothing can be kept.
    """
    home = cache_directory()
    if home.exists() and not home.is_dir():
        raise InputError(f"{DIRECTORY_VARIABLE} must be a directory, got {str(home)!r}")
    found = []
    for kind in KINDS:
        if kind == BACKBONES:
            paths = [one for one in _inside(home) if _is_backbone(one)]
        else:
            paths = _files(home / kind)
        found.append(Kept(kind, tuple(paths), sum(map(_size, paths))))
    return found


def clear(kinds: Collection[str]) -> list[Kept]:
    """Delete everything of some kinds, and return what that was."""
    gone = [one for one in kept() if one.kind in kinds]
    for one in gone:
        for path in one.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_gone)
            else:
                path.unlink(missing_ok=True)
    return gone


def _unless_gone(_: object, __: str, problem: tuple[object, BaseException, object]) -> None:
    """Raise what stopped a deletion, unless another process has deleted the same."""
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]


def _is_backbone(path: Path) -> bool:
    """Return whether a directory holds de-quantised weights, by its name and their checksum."""
    return bool(_BACKBONE.fullmatch(path.name)) and (path / WEIGHTS_CHECKSUM).is_file()


def _files(directory: Path) -> list[Path]:
    """Return the files of a kind, and what writers that were killed left behind."""
    found = []
    for path in _inside(directory):
        if path.name.endswith(_SUFFIX):
            found.append(path)
        elif path.name.startswith(".") and path.name.endswith(".part"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _WRITING_SECONDS:
                    found.append(path)
    return found


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir()) if directory.is_dir() else []
    except PermissionError:  # another user's
        return []


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # another process deletes it
            total += file.lstat().st_size if file.is_file() else 0
    return total
