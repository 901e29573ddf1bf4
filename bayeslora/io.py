"""Files and directories that are whole or absent, and files that are read with checks.

An output is written under the name `.NAME.part` beside its target, and renamed. A lock,
`.NAME.lock`, keeps other processes from writing it at the same time. After a kill, the target is
the old or the new output, and the next writer deletes what is left.

A directory of ours has a marker, a JSON file such as `bayeslora.json`, that lists our files; it is
replaced only if nothing in it is somebody else's.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError, located

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

PART, OLD, LOCK = ".part", ".old", ".lock"
"""Endings of our hidden files beside an output: unfinished, replaced, locked."""

_PATIENCE = 60.0  # seconds


def hidden(target: Path, suffix: str) -> Path:
    """Return the path of a hidden file beside `target`, such as `.NAME.lock`."""
    return target.with_name(f".{target.name}{suffix}")


def is_leftover(path: Path) -> bool:
    """Return whether a path in a directory of ours is what a killed writer leaves."""
    return path.name.startswith(".") and path.suffix in (PART, LOCK)


@contextmanager
def lock(path: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing to `path` while the context lasts.

    Leftovers of killed writers beside it are cleaned up first. Parent directories are created, and
    removed at the end if they are still empty. Contexts of one process may be nested.

    Args:
        path: The output, a file or a directory, which need not exist.
        wait: Seconds to wait for another process.

    Raises:
        InputError: Another process is writing to it.
        OSError: It cannot be written.
    """
    from filelock import FileLock, Timeout

    target = real_path(path)
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    file = hidden(target, LOCK)
    guard = FileLock(file, thread_local=False, is_singleton=True)
    try:
        guard.acquire(timeout=wait)
    except Timeout:
        raise InputError(
            f"another process is writing to {target}; wait for it, or choose another path",
            code="busy",
        ) from None
    try:
        if guard.lock_counter == 1:
            _clean_up(target)
        yield
    finally:
        if guard.lock_counter == 1:
            # Who waits for this file notices that it is gone, and creates it again.
            file.unlink(missing_ok=True)
        guard.release()
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _clean_up(target: Path) -> None:
    """Delete what a killed writer left; restore a directory that was only moved aside."""
    remove(hidden(target, PART))
    old = hidden(target, OLD)
    if old.exists() and not target.exists():
        old.rename(target)
    remove(old)


def remove(path: Path) -> None:
    """Delete one of our files or directories as far as possible; it may be missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    Readers never see a partial file, and after a failure or a kill the old file is intact. Another
    process writing the same file is waited for. Parent directories are created. If `path` is a
    link, its target is written. A replaced file's mode is kept.

    Raises:
        InputError: Another process keeps writing it.
        OSError: The file cannot be written, as on a full disk.
    """
    target = real_path(path)
    with lock(target, wait=_PATIENCE):
        temporary = hidden(target, PART)
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # safetensors replaces the file by a private one
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


FILES = "files"
"""Key of a marker: the names of our files."""


@dataclass(frozen=True)
class Layout:
    """The files of one kind of output directory.

    Attributes:
        marker: Name of the JSON file that identifies it, with `format_version` and, as `files`,
            the names of our files.
        files: Patterns of further files of ours, which the marker need not list.
    """

    marker: str
    files: tuple[str, ...] = ()


@contextmanager
def atomic_directory(path: str | Path, *layouts: Layout, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`, and rename it to `path` if the block succeeds.

    An old directory is first renamed to `.NAME.old`. After a kill between the two renames, the next
    writer restores it. If `path` is a link, its target is replaced.

    Args:
        path: The directory to create. An empty one is filled.
        layouts: Layouts that may be replaced; none allows any directory, as for our own caches.
        overwrite: Whether anything may be replaced at all.

    Raises:
        InputError: As `refuse_target`, or another process is writing to it.
    """
    target = real_path(path)
    with lock(target):
        refuse_target(path, *layouts, overwrite=overwrite)
        temporary, old = hidden(target, PART), hidden(target, OLD)
        temporary.mkdir()
        mode = temporary.stat().st_mode & 0o666
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)  # safetensors writes private files
            # Checked again, since a file may have been added in the meantime.
            refuse_target(path, *layouts, overwrite=overwrite)
            if target.exists():
                if target.is_dir():
                    temporary.chmod(target.stat().st_mode)
                target.rename(old)
            temporary.rename(target)
            remove(old)
        finally:
            remove(temporary)


def refuse_target(path: str | Path, *layouts: Layout, overwrite: bool | None) -> None:
    """Raise InputError if a directory may not be written at `path`.

    Raises:
        InputError: It exists and `overwrite` is false, or as `refuse_foreign`.
    """
    refuse_existing(path, overwrite=overwrite)
    if layouts:
        refuse_foreign(path, *layouts)


def refuse_foreign(path: str | Path, *layouts: Layout) -> None:
    """Raise InputError if replacing `path` would delete a file that we did not write.

    A missing path and an empty directory pass. A directory may combine several layouts, such as a
    model and an interrupted fit.

    Raises:
        InputError: It holds a foreign file, or is one; the message names the first.
    """
    folder = real_path(path)
    patterns: list[str] = []
    for layout in layouts:
        listed = _listed(folder / layout.marker)
        if listed is not None:
            patterns += [layout.marker, *layout.files, *map(glob.escape, listed)]
    for name in [folder.name] if folder.is_file() else listed_files(folder):
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            raise InputError(
                f"{path} is not overwritten: bayeslora did not write {name!r}; choose another path",
                code="exists",
            )


def _listed(marker: Path) -> list[str] | None:
    """Return the names that a marker lists; None if it is missing, damaged or not ours."""
    try:
        content = read_json(marker)
    except InputError:
        return None
    if not isinstance(content, dict) or "format_version" not in content:
        return None
    return list(content.get(FILES) or ())


def listed_files(directory: Path) -> list[str]:
    """Return the relative paths of all files in a directory but leftovers, sorted."""
    files = (
        path
        for path in directory.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not is_leftover(path)
    )
    return sorted(path.relative_to(directory).as_posix() for path in files)


def refuse_existing(path: str | Path, *, overwrite: bool | None) -> None:
    """Raise InputError if `path` exists and may not be replaced; an empty directory is allowed."""
    if Path(path).exists() and not overwrite and not is_empty_directory(path):
        raise InputError(
            f"{path} exists; choose another path or pass overwrite (--overwrite)", code="exists"
        )


def refuse_inputs(out: str | Path, *inputs: str | Path) -> None:
    """Raise InputError if an output would replace one of its inputs, even with `overwrite`.

    Raises:
        InputError: It is one of the inputs, or a directory that contains one.
    """
    target = real_path(out)
    for path in inputs:
        source = real_path(path)
        if source.is_relative_to(target) and source.exists():
            raise InputError(f"{out} is an input of this command, or contains {path}")


def check_writable(path: str | Path) -> None:
    """Raise InputError if nothing can be written at `path`, before anything is computed."""
    parent = real_path(path).parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: {parent} is not a directory to write to")


def is_empty_directory(path: str | Path) -> bool:
    """Return whether `path` is a directory without entries but leftovers of killed writers."""
    folder = Path(path)
    return folder.is_dir() and all(map(is_leftover, folder.iterdir()))


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links."""
    return Path(os.path.realpath(path))


def read_text(path: str | Path) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        InputError: It is missing or not UTF-8.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist, or is not a file")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}", code="damaged") from None


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: As `read_text`, or it is not JSON.
    """
    try:
        return json.loads(read_text(path), parse_constant=_refused_constant)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}", code="damaged") from None


def _refused_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        OSError: The file cannot be written.
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file; see `load_yaml`.

    Raises:
        InputError: As `read_text` and `load_yaml`; the message names the file.
    """
    text = read_text(path)
    with located(path):
        return load_yaml(text)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document as plain Python types.

    Raises:
        InputError: The document is not plain YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Yield an open safetensors file, with `keys`, `metadata` and `get_tensor`.

    Raises:
        InputError: It is missing, damaged or truncated.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"{path} does not exist, or is not a file", code="damaged")
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or truncated: {error}", code="damaged") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by name.

    Raises:
        InputError: See `open_tensors`.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write a safetensors file atomically.

    Args:
        path: Output file.
        tensors: Tensors by name.
        **about: Metadata.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(contiguous, str(temporary), metadata=about)


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
    """Return the size limit of each kind except backbones: `BAYESLORA_CACHE_GIB`, else 2 GiB."""
    return int(float(os.environ.get(SIZE_VARIABLE) or _DEFAULT_GIB) * (1 << 30))


def kept_file(kind: str, key: str) -> Path:
    """Return the path of the cached file for a key, which need not exist."""
    return cache_directory() / kind / f"{key}{_SUFFIX}"


def may_keep(num_bytes: int) -> bool:
    """Return whether a file of this size may be cached: at most half the limit, for two runs."""
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
