"""Which directories are ours to replace, and to delete.

A directory counts as ours if every file in it has a name that we write and its marker file, such as
`bayeslora.json`, parses as ours. Anything else in it may be a user's work and is never deleted.
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

# Temporary files and locks of a writer that was killed, by the name of what it wrote.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?:[a-z0-9_]{8}\.(?:part|old)|lock)")

_UNREADABLE = object()


@dataclass(frozen=True)
class Layout:
    """The files of one kind of output directory.

    Attributes:
        kind: What the directory is called in messages, such as `a model`.
        marker: Name of the JSON file that identifies it. The marker has `format_version`, and may
            list further names under `files`.
        version: Newest format version that this package writes.
        keys: Further keys of the marker.
        files: Patterns of relative paths, such as `figures/*.svg`; `*` does not match `/`.
        fragile: Whether a marker that is no JSON, as a power cut may leave it, counts as ours. True
            where nothing but intermediate files stands beside it.
        complete: Whether `files` are for directories without a list in the marker alone.
    """

    kind: str
    marker: str
    version: int
    keys: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    fragile: bool = False
    complete: bool = False

    def recognises(self, content: Any) -> bool:
        """Return whether the content of a marker is ours, in a format version that we know."""
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
        # A listed name is a name, not a pattern.
        escaped = {re.sub(r"([*?[])", r"[\1]", name) for name in names if isinstance(name, str)}
        return {self.marker, *(() if self.complete and listed else self.files), *escaped}


def refuse_foreign(path: str | Path, *layouts: Layout) -> None:
    """Raise InputError if replacing `path` would delete a file that we did not write.

    A missing path and an empty directory pass. A directory may combine several layouts, as a model
    does whose next fit was interrupted.

    Args:
        path: The directory to replace.
        layouts: What it may be; at least one marker must be there, and each that is must be ours.

    Raises:
        InputError: It is not such a directory, or holds a foreign file; the first one is named.
    """
    folder = real_path(path)
    if not folder.exists() or is_empty_directory(folder):
        return
    refusal = f"{path} is not {layouts[0].kind} and is not overwritten"
    if not folder.is_dir():
        raise InputError(f"{refusal}: it is a file; choose another path")
    markers = _markers(folder, layouts)
    if any(layout.recognises(found) for layout, found in markers.items()):
        refusal = f"{path} is not overwritten"
    if (foreign := _first_foreign(folder, _patterns(markers))) is not None:
        raise InputError(
            f"{refusal}: bayeslora did not write {foreign!r} in it; choose another path, or move "
            "what is there"
        )
    for layout, content in markers.items():
        if content is not None and not layout.recognises(content):
            raise InputError(
                f"{refusal}: {layout.marker} is damaged, of another program, or of a newer "
                "bayeslora; choose another path",
                code="damaged",
            )
    if not any(content is not None for content in markers.values()):
        raise InputError(f"{refusal}: it has no {layouts[0].marker}; choose another path")


def remove_ours(folder: Path, layouts: Sequence[Layout]) -> str | None:
    """Delete a directory, but nothing where a file in it is not ours.

    Each file is deleted by its name and the marker last, so that a file that appears meanwhile is
    kept, and that a kill leaves a directory of which the same call deletes the rest.

    Args:
        folder: The directory; no link.
        layouts: What it may be.

    Returns:
        Relative path of what is not ours and still there; None where the directory is gone.

    Raises:
        InputError: A directory in it cannot be read.
    """
    markers = _markers(folder, layouts)
    present = [one for one, content in markers.items() if content is not None]
    patterns = _patterns(markers) if present and [*_known(markers)] == present else []
    found = _first_foreign(folder, patterns)
    if found is None:
        _remove_matching(folder, patterns, {layout.marker for layout in layouts})
        found = _first_foreign(folder, []) if folder.is_dir() else None
    return found


def _remove_matching(folder: Path, patterns: list[tuple[str, ...]], last: set[str]) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        here = Path(place)
        with suppress(OSError):
            here.chmod(0o700)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted((*files, *links), key=last.__contains__):
            parts = _plain_name((here / name).relative_to(folder).parts)
            if any(_matches(parts, pattern) for pattern in patterns):
                with suppress(OSError):
                    (here / name).unlink()
        with suppress(OSError):  # it is not empty
            here.rmdir()


def _first_foreign(
    folder: Path, patterns: list[tuple[str, ...]], above: tuple[str, ...] = ()
) -> str | None:
    """Return the relative path of the first entry that no pattern matches; links are not followed.

    Raises:
        InputError: A directory cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder.joinpath(*above)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder.joinpath(*above)} cannot be read: {error}") from None
    for entry in entries:
        here = (*above, entry.name)
        if entry.is_dir(follow_symlinks=False):
            found: str | None = "/".join(here) + "/"
            if any(_matches(here, pattern[: len(here)]) for pattern in _longer(patterns, here)):
                found = _first_foreign(folder, patterns, here)
            if found is not None:
                return found
        elif not any(_matches(_plain_name(here), pattern) for pattern in patterns):
            return "/".join(here)
    return None


def _longer(patterns: list[tuple[str, ...]], parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (pattern for pattern in patterns if len(pattern) > len(parts))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _plain_name(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a path with the name that a leftover belongs to in the place of its own."""
    leftover = _LEFTOVER.fullmatch(parts[-1])
    return parts if leftover is None else (*parts[:-1], leftover["name"])


def _marker(path: Path) -> Any:
    """Return the content of a marker: None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        return read_json(path)
    except InputError:
        return _UNREADABLE


def _markers(folder: Path, layouts: Sequence[Layout]) -> dict[Layout, Any]:
    """Return the content of each layout's marker: None where there is none."""
    return {layout: _marker(folder / layout.marker) for layout in layouts}


def _known(markers: Mapping[Layout, Any]) -> dict[Layout, Any]:
    return {one: found for one, found in markers.items() if found and one.recognises(found)}


def _patterns(markers: Mapping[Layout, Any]) -> list[tuple[str, ...]]:
    """Return the patterns of all files of some layouts, split at `/`."""
    # A file of a model beside only the mark of an interrupted fit is not ours.
    known = _known(markers) or markers
    # A writer that was killed before there was a marker has left its temporary file.
    whole = {layout.marker for layout in markers}.union(
        *(layout.patterns(content) for layout, content in known.items())
    )
    return [tuple(pattern.split("/")) for pattern in sorted(whole)]
