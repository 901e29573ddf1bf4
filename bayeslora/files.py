"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` when the block ends well.

    A reader never meets half a file, and a failed or killed writer leaves the old one in place.
    The parent directories are made. Where `path` is a link, what it leads to is written.
    """
    target = real_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a directory beside `path` to fill; rename it to `path` when the block ends well.

    The files in it get the modes that the umask allows, whatever their writer made of them. Where
    `path` is a link, what it leads to is replaced.

    Raises:
        InputError: `path` exists and `overwrite` is false, or it holds the working directory.
    """
    target = real_path(path)
    refuse_existing(path, overwrite=overwrite)
    refuse_ground(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        yield aside
        _open_up(aside)
        _swap(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def refuse_existing(path: str | Path, *, overwrite: bool | None) -> None:
    """Complain about a path that is there and may not be replaced.

    Raises:
        InputError: It is so.
    """
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists; choose another path or pass overwrite (--overwrite)")


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links.

    Raises:
        InputError: Its links lead in a circle.
    """
    # Path.resolve fails on a circle before Python 3.13, and no longer since.
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise InputError(f"{path} is a link that leads back to itself")
    return found


def refuse_inputs(out: str | Path, *inputs: str | Path) -> None:
    """Keep an output from replacing what it is made from, with `overwrite` as well.

    Raises:
        InputError: It is one of the inputs, or a directory that holds one.
    """
    target = real_path(out)
    for one in inputs:
        place = real_path(one)
        if place.is_relative_to(target) and place.exists():
            relation = "is" if place == target else f"holds {one},"
            raise InputError(f"{out} {relation} an input of this command; choose another path")


def check_writable(path: str | Path) -> None:
    """Complain where nothing can be written at a path, before anything is computed.

    Raises:
        InputError: The directory that it would be made in cannot be written to, or is a file.
    """
    place = real_path(path).parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path} cannot be written: {place} is not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write to {place}")


def refuse_ground(path: str | Path) -> None:
    """Complain about a directory that cannot be replaced because the process stands in it.

    Raises:
        InputError: It is the working directory, or holds it.
    """
    if Path.cwd().is_relative_to(real_path(path)):
        raise InputError(f"{path} is, or holds, the working directory; choose another path")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically; NaN and infinities are refused.

    Raises:
        ValueError: A number in `content` is not finite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: The file is missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None


def _open_up(directory: Path) -> None:
    """Give a directory, and the files in it, the modes of new ones."""
    mask = _umask()
    # Some libraries, safetensors among them, write to a private file and rename it.
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)
    directory.chmod(0o777 & ~mask)


def _swap(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`, and put back what was there if that fails."""
    if not os.path.lexists(target):
        aside.rename(target)
        return
    old = aside.with_suffix(".old")
    target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


def _umask() -> int:
    """Return the process's file mode mask; the system has no way to ask without setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
