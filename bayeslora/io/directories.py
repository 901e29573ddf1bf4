"""Directories that we write: replaced whole, if nothing in them is somebody else's.

Each has a marker, a JSON file such as `bayeslora.json`, that lists our files. A model's record
lists size and SHA-256 of each, which are checked when it is loaded. They show damage and mix-ups,
not attacks: who changes a file can compute its hash.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from bayeslora.errors import InputError
from bayeslora.io.files import (
    OLD,
    PART,
    hidden,
    is_empty_directory,
    is_leftover,
    lock,
    read_json,
    real_path,
    refuse_existing,
    remove,
)
from bayeslora.plain_text import counted

FILES, RECORD_HASH = "files", "sha256"
"""Keys of a record: `{name: {"size": bytes, "sha256": hex}}`, and the hash of the record itself."""

State = Literal["ok", "changed", "missing", "not listed"]

# Files that a tokenizer may read: an unlisted one changes predictions. Others, such as notes, are
# not read.
_READ_BY_TOKENIZERS = (
    *("*token*", "*vocab*", "*.model", "*.spm", "*.jinja", "merges.txt", "*config.json"),
)


@dataclass(frozen=True)
class Layout:
    """The files of one kind of output directory.

    Attributes:
        kind: Name of the directory in messages, such as `a model`.
        marker: Name of the JSON file that identifies it, with `format_version` and, as `files`,
            the names of our files.
        files: Patterns of further files of ours, which the marker need not list.
    """

    kind: str
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
        InputError: It exists and `overwrite` is false, it contains the working directory, or as
            `refuse_foreign`.
    """
    refuse_existing(path, overwrite=overwrite)
    if Path.cwd().is_relative_to(real_path(path)):
        raise InputError(f"{path} is or contains the working directory; choose another path")
    if layouts:
        refuse_foreign(path, *layouts)


def refuse_foreign(path: str | Path, *layouts: Layout) -> None:
    """Raise InputError if replacing `path` would delete a file that we did not write.

    A missing path and an empty directory pass. A directory may combine several layouts, such as a
    model and an interrupted fit.

    Raises:
        InputError: It is not such a directory, or holds a foreign file; the message names the
            first.
    """
    folder = real_path(path)
    if not folder.exists() or is_empty_directory(folder):
        return
    refusal = f"{path} is not {layouts[0].kind} and is not overwritten"
    if not folder.is_dir():
        raise InputError(f"{refusal}: it is a file; choose another path", code="exists")
    patterns: list[str] = []
    for layout in layouts:
        listed = _listed(folder / layout.marker)
        if listed is not None:
            patterns += [layout.marker, *layout.files, *map(glob.escape, listed)]
    names = listed_files(folder)
    if not patterns:
        raise InputError(
            f"{refusal}: it contains {(names or ['directories'])[0]!r} and no readable "
            f"{layouts[0].marker} of bayeslora; choose another path",
            code="exists",
        )
    for name in names:
        if not any(fnmatchcase(name, pattern) for pattern in patterns):
            raise InputError(
                f"{path} is not overwritten: it contains {name!r}, which bayeslora did not write; "
                "choose another path, or move its contents",
                code="exists",
            )


def _listed(marker: Path) -> list[str] | None:
    """Return the names that a marker lists; None if it is missing, damaged or not ours."""
    try:
        content = read_json(marker)
    except InputError:
        return None
    if not isinstance(content, dict) or type(content.get("format_version")) is not int:
        return None
    files = content.get(FILES)
    return [str(name) for name in files] if isinstance(files, list | dict) else []


def listed_files(directory: Path) -> list[str]:
    """Return the relative paths of all files in a directory but leftovers, sorted."""
    files = (
        path
        for path in directory.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not is_leftover(path)
    )
    return sorted(path.relative_to(directory).as_posix() for path in files)


@dataclass(frozen=True)
class FileState:
    """One file of a model directory, compared with the list.

    Attributes:
        name: Path relative to the directory, with forward slashes.
        size: In bytes; None if the file is missing.
        state: `ok`, `changed`, `missing`, or `not listed`.
        problem: Description of the problem; empty if there is none.
    """

    name: str
    size: int | None
    state: State
    problem: str = ""


def file_list(directory: Path, *, without: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below a directory by name.

    Args:
        directory: Directory of the files.
        without: Names to leave out.
    """
    return {
        name: {"size": (directory / name).stat().st_size, "sha256": _sha256(directory / name)}
        for name in listed_files(directory)
        if name not in without
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record without its own hash, independent of layout and key order."""
    rest = {key: value for key, value in content.items() if key != RECORD_HASH}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed(content: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the list of its files and its own hash."""
    # Through JSON, so that the hash is that of the content read back, such as lists for tuples.
    plain: dict[str, Any] = json.loads(json.dumps({**content, FILES: files}))
    return {**plain, RECORD_HASH: record_hash(plain)}


def check_record(path: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError if a record was changed after saving.

    Records of versions that wrote neither list nor hash pass.
    """
    if FILES not in content and RECORD_HASH not in content:
        return
    if content.get(RECORD_HASH) != record_hash(content) or not _is_list(content.get(FILES)):
        raise InputError(
            f"{path} is damaged: it was changed after the model was saved (its SHA-256 differs)",
            code="damaged",
        )


def _is_list(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(item, dict)
        and isinstance(item.get("size"), int)
        and isinstance(item.get("sha256"), str)
        and not name.startswith("/")
        and ".." not in name.split("/")
        for name, item in files.items()
    )


def file_states(
    directory: Path, files: Mapping[str, Mapping[str, Any]], *, without: Iterable[str] = ()
) -> list[FileState]:
    """Return the state of each file of a directory against its list, unlisted files last.

    Args:
        directory: The model directory.
        files: Size and SHA-256 by name.
        without: Unlisted names to leave out.
    """
    states = [_state(directory, name, item) for name, item in files.items()]
    for name in listed_files(directory):
        if name not in files and name not in without:
            is_read = "/" not in name and any(
                fnmatchcase(name, pattern) for pattern in _READ_BY_TOKENIZERS
            )
            problem = "was not saved with the model and would change its tokenizer"
            size = (directory / name).stat().st_size if (directory / name).is_file() else None
            states.append(FileState(name, size, "not listed", problem if is_read else ""))
    return states


def _state(directory: Path, name: str, expected: Mapping[str, Any]) -> FileState:
    path = directory / name
    if not path.is_file():
        return FileState(name, None, "missing", "is missing")
    size = path.stat().st_size
    if size != expected["size"]:
        problem = f"has {size:,} bytes, expected {expected['size']:,}"
    elif _sha256(path) != expected["sha256"]:
        problem = "was changed after the model was saved (its SHA-256 differs)"
    else:
        return FileState(name, size, "ok")
    return FileState(name, size, "changed", problem)


def check_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError if a listed file is missing or changed, or a tokenizer file is not listed.

    Args:
        directory: The model directory.
        files: Size and SHA-256 by name.
    """
    wrong = [state for state in file_states(directory, files) if state.problem]
    if wrong:
        advice = "`bayeslora info MODEL --verify` lists its files"
        raise InputError(f"{damage(directory, wrong)}; {advice}", code="damaged")


def damage(directory: str | Path, wrong: Sequence[FileState]) -> str:
    """Return a description of a model directory's damage, given its damaged files."""
    more = f", and {counted(len(wrong) - 1, 'other file')}" if len(wrong) > 1 else ""
    return f"{directory} is damaged: {wrong[0].name} {wrong[0].problem}{more}"
