"""Atomic writes of output directories, which replace only directories of ours."""

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
    """Yield a temporary directory beside `path`, and rename it to `path` if the block succeeds.

    After a kill at any time, the old or the new directory is in place; see `durable`. A replaced
    directory and replaced files keep their modes; new ones get the umask's, whatever their writer
    set. If `path` is a link, its target is replaced. A file added there at the last moment is kept
    in a directory named in a warning.

    Args:
        path: The directory to create. An empty one is filled.
        layouts: Layouts that may be replaced; none allows any directory, as for our own caches.
        overwrite: Whether anything may be replaced at all.

    Raises:
        InputError: `path` exists and `overwrite` is false, it does not match the layouts, it
            contains the working directory, or another process is writing to it.
    """
    target = real_path(path)
    with writing_to(target), naming_full_disk(path):
        refuse_target(path, *layouts, overwrite=overwrite)
        temporary = temporary_directory(target)
        try:
            yield temporary
            _set_modes(temporary, target)
            # Checked again, since a file may have been added in the meantime.
            refuse_target(path, *layouts, overwrite=overwrite)
            if (replaced := replace_directory(temporary, target)) is not None:
                _discard(replaced, target, layouts)
        finally:
            remove(temporary)


def refuse_target(path: str | Path, *layouts: Layout, overwrite: bool | None) -> None:
    """Raise InputError if a directory may not be written at `path`.

    Directories replaced by killed writers are deleted first, as far as they are ours. Arguments
    are those of `atomic_directory`.

    Raises:
        InputError: As `atomic_directory`.
    """
    target = real_path(path)
    with writing_to(target) as alone:
        for leftover in leftovers(target) if alone else []:
            if leftover.suffix == GONE:
                _discard(leftover, target, layouts)
        refuse_existing(path, overwrite=overwrite)
        refuse_ground(path)
        if layouts:
            refuse_foreign(path, *layouts)


def _discard(replaced: Path, target: Path, layouts: tuple[Layout, ...]) -> None:
    """Delete the replaced directory, or rename it visibly if it holds a file that is not ours."""
    if not layouts:
        remove(replaced)
        return
    try:
        foreign = remove_ours(replaced, layouts)
    except InputError as error:
        foreign = str(error)
    if foreign is not None:
        backup = target.with_name(hidden_name(target, f".old-{replaced.stem[-8:]}")[1:])
        replaced.rename(backup)
        logger.warning(
            "moved the previous content of %s to %s, because bayeslora did not write %s",
            target,
            backup,
            foreign,
        )


def listed_files(directory: Path) -> list[str]:
    """Return the relative paths of all files in a directory, sorted, for its marker."""
    files = (path for path in directory.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in files)


def _set_modes(directory: Path, old: Path) -> None:
    """Set the modes of a directory and its files to those of the old ones, or to defaults."""
    # Some libraries, safetensors among them, write to a private file and rename it.
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(file_mode(old / path.relative_to(directory)))
    directory.chmod(old.stat().st_mode & 0o7777 if old.is_dir() else 0o777 & ~umask())
