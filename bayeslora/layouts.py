"""Layouts of output directories, which decide what may be replaced and deleted.

A directory is ours if every file in it has a name that we write and its marker file, such as
`bayeslora.json`, is a valid one. Any other file in it may be a user's work and is never deleted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.files import is_empty_directory, read_json, real_path

# Temporary files and locks of a killed writer, with the name of its target.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}\.(?:part|old)|lock)")

_UNREADABLE = object()


@dataclass(frozen=True)
class Layout:
    """The files of one kind of output directory.

    Attributes:
        kind: Name of the directory in messages, such as `a model`.
        marker: Name of the JSON file that identifies it. The marker has `format_version`, and may
            list more names under `files`.
        version: Newest format version that this package writes.
        keys: Other required keys of the marker.
        files: Patterns of relative paths, such as `figures/*.svg`; `*` does not match `/`.
        fragile: Whether an unreadable marker, as after a power cut, counts as ours; for
            directories of intermediate files only.
        complete: Whether `files` apply only to directories without a list in the marker.
    """

    kind: str
    marker: str
    version: int
    keys: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    fragile: bool = False
    complete: bool = False

    def recognises(self, content: Any) -> bool:
        """Return whether the content of a marker is ours, in a known format version."""
        if content is _UNREADABLE:
            return self.fragile
        if not isinstance(content, Mapping) or not content.keys() >= self.keys:
            return False
        version = content.get("format_version")
        return type(version) is int and 1 <= version <= self.version

    def patterns(self, content: Any) -> set[str]:
        """Return the patterns of all files, given the content of the marker."""
        known = isinstance(content, Mapping) and self.recognises(content)
        listed = content.get("files") if known else None
        names = listed if isinstance(listed, list | dict) else ()
        # Listed names are not patterns.
        escaped = {re.sub(r"([*?[])", r"[\1]", name) for name in names if isinstance(name, str)}
        return {self.marker, *(() if self.complete and listed else self.files), *escaped}


def refuse_foreign(path: str | Path, *layouts: Layout) -> None:
    """Raise InputError if replacing `path` would delete a file that we did not write.

    A missing path and an empty directory pass. A directory may combine several layouts, such as a
    model and an interrupted fit.

    Args:
        path: The directory to replace.
        layouts: Allowed layouts; at least one marker must exist, and every existing one must be
            ours.

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
    markers = _markers(folder, layouts)
    if any(layout.recognises(content) for layout, content in markers.items()):
        refusal = f"{path} is not overwritten"
    if (foreign := _first_foreign(folder, _patterns(markers))) is not None:
        raise InputError(
            f"{refusal}: it contains {foreign!r}, which bayeslora did not write; choose another "
            "path, or move its contents",
            code="exists",
        )
    for layout, content in markers.items():
        if content is not None and not layout.recognises(content):
            raise InputError(
                f"{refusal}: {layout.marker} is damaged, or was written by another program or a "
                "newer bayeslora; choose another path",
                code="damaged",
            )
    if not any(content is not None for content in markers.values()):
        raise InputError(
            f"{refusal}: it has no {layouts[0].marker}; choose another path", code="exists"
        )


def remove_ours(folder: Path, layouts: Sequence[Layout]) -> str | None:
    """Delete a directory, or nothing if a file in it is not ours.

    Files are deleted by name and the marker last, so that a file that appears in the meantime is
    kept, and the same call can finish the deletion after a kill.

    Args:
        folder: The directory; not a link.
        layouts: Allowed layouts.

    Returns:
        Relative path of the first foreign file; None if the directory was deleted.

    Raises:
        InputError: A directory in it cannot be read.
    """
    markers = _markers(folder, layouts)
    present = [layout for layout, content in markers.items() if content is not None]
    patterns = _patterns(markers) if present and [*_known(markers)] == present else []
    foreign = _first_foreign(folder, patterns)
    if foreign is None:
        _remove_matching(folder, patterns, {layout.marker for layout in layouts})
        foreign = _first_foreign(folder, []) if folder.is_dir() else None
    return foreign


def _remove_matching(folder: Path, patterns: list[tuple[str, ...]], last: set[str]) -> None:
    for root, folders, files in os.walk(folder, topdown=False):
        directory = Path(root)
        with suppress(OSError):
            directory.chmod(0o700)
        links = [name for name in folders if (directory / name).is_symlink()]
        for name in sorted((*files, *links), key=last.__contains__):
            parts = _plain_name((directory / name).relative_to(folder).parts)
            if any(_matches(parts, pattern) for pattern in patterns):
                with suppress(OSError):
                    (directory / name).unlink()
        with suppress(OSError):  # it is not empty
            directory.rmdir()


def _first_foreign(
    folder: Path, patterns: list[tuple[str, ...]], parents: tuple[str, ...] = ()
) -> str | None:
    """Return the relative path of the first entry that no pattern matches; links are not followed.

    Raises:
        InputError: A directory cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder.joinpath(*parents)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder.joinpath(*parents)} cannot be read: {error}") from None
    for entry in entries:
        parts = (*parents, entry.name)
        if entry.is_dir(follow_symlinks=False):
            foreign: str | None = "/".join(parts) + "/"
            if any(_matches(parts, pattern[: len(parts)]) for pattern in _longer(patterns, parts)):
                foreign = _first_foreign(folder, patterns, parts)
            if foreign is not None:
                return foreign
        elif not any(_matches(_plain_name(parts), pattern) for pattern in patterns):
            return "/".join(parts)
    return None


def _longer(patterns: list[tuple[str, ...]], parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (pattern for pattern in patterns if len(pattern) > len(parts))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _plain_name(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a path with the name of a leftover replaced by that of its target."""
    leftover = _LEFTOVER.fullmatch(parts[-1])
    return parts if leftover is None else (*parts[:-1], leftover["name"])


def _marker(path: Path) -> Any:
    """Return the content of a marker; None if it is missing."""
    if not os.path.lexists(path):
        return None
    try:
        return read_json(path)
    except InputError:
        return _UNREADABLE


def _markers(folder: Path, layouts: Sequence[Layout]) -> dict[Layout, Any]:
    """Return the content of each layout's marker; None if it is missing."""
    return {layout: _marker(folder / layout.marker) for layout in layouts}


def _known(markers: Mapping[Layout, Any]) -> dict[Layout, Any]:
    return {
        layout: content
        for layout, content in markers.items()
        if content and layout.recognises(content)
    }


def _patterns(markers: Mapping[Layout, Any]) -> list[tuple[str, ...]]:
    """Return the file patterns of all layouts with a marker, split at `/`."""
    # A model's file with only the marker of an interrupted fit is not ours.
    known = _known(markers) or markers
    # A writer killed before it wrote the marker leaves the marker's temporary file.
    names = {layout.marker for layout in markers}.union(
        *(layout.patterns(content) for layout, content in known.items())
    )
    return [tuple(pattern.split("/")) for pattern in sorted(names)]
