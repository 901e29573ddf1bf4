"""Directories that a command writes as a whole, and replaces only where they are its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bayeslora.durable import (
    GONE,
    hidden_name,
    leftovers,
    naming_full_disk,
    remove,
    replace_directory,
    temporary_directory,
)
from bayeslora.errors import InputError
from bayeslora.files import file_mode, real_path, refuse_existing, refuse_ground, umask
from bayeslora.layouts import Layout, refuse_foreign, remove_ours
from bayeslora.locks import writing_to

logger = logging.getLogger(__name__)


@contextmanager
def atomic_directory(path: str | Path, *layouts: Layout, overwrite: bool = False) -> Iterator[Path]:
    """Yield a directory beside `path` to fill; rename it to `path` when the block ends well.

    Whenever the process is killed, the old or the new directory is there; see `durable`. A replaced
    directory and replaced files keep their modes; new ones get those that the umask allows,
    whatever their writer made of them. Where `path` is a link, what it leads to is replaced. A file
    that somebody puts there at the last moment is kept, in a directory that a warning names.

    Args:
        path: The directory to make. An empty one is filled.
        layouts: What may be replaced there; none stands for anything, as in a cache of our own.
        overwrite: Whether anything may be replaced at all.

    Raises:
        InputError: `path` exists and `overwrite` is false, it is something else than the layouts
            allow, it holds the working directory, or another process is writing to it.
    """
    target = real_path(path)
    with writing_to(target), naming_full_disk(path):
        refuse_target(path, *layouts, overwrite=overwrite)
        aside = temporary_directory(target)
        try:
            yield aside
            _set_modes(aside, target)
            # Again, as somebody may have put a file there in the meantime.
            refuse_target(path, *layouts, overwrite=overwrite)
            if (gone := replace_directory(aside, target)) is not None:
                _discard(gone, target, layouts)
        finally:
            remove(aside)


def refuse_target(path: str | Path, *layouts: Layout, overwrite: bool | None) -> None:
    """Raise InputError if a directory may not be written at `path`.

    What killed writers had replaced there is deleted first, as far as it is ours. Arguments are
    those of `atomic_directory`.

    Raises:
        InputError: As `atomic_directory`.
    """
    target = real_path(path)
    with writing_to(target) as alone:
        for gone in leftovers(target) if alone else []:
            if gone.suffix == GONE:
                _discard(gone, target, layouts)
        refuse_existing(path, overwrite=overwrite)
        refuse_ground(path)
        if layouts:
            refuse_foreign(path, *layouts)


def _discard(gone: Path, target: Path, layouts: tuple[Layout, ...]) -> None:
    """Delete what was at `target`; where it holds a file that is not ours, give it a plain name."""
    if not layouts:
        remove(gone)
        return
    try:
        foreign = remove_ours(gone, layouts)
    except InputError as error:
        foreign = str(error)
    if foreign is not None:
        kept = target.with_name(hidden_name(target, f".old-{gone.stem[-8:]}")[1:])
        gone.rename(kept)
        logger.warning("what was at %s is kept in %s: %s is not ours", target, kept, foreign)


def listed_files(directory: Path) -> list[str]:
    """Return the relative paths of all files in a directory, sorted, for its marker."""
    files = (path for path in directory.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in files)


def _set_modes(directory: Path, old: Path) -> None:
    """Give a directory and its files the modes of what they replace, or of new ones."""
    # Some libraries, safetensors among them, write to a private file and rename it.
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(file_mode(old / path.relative_to(directory)))
    directory.chmod(old.stat().st_mode & 0o7777 if old.is_dir() else 0o777 & ~umask())
