"""Snapshots of a directory, for comparison before and after a command."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

Tree = dict[str, tuple[str, str]]
"""Kind and content of each path, keyed by the path relative to the root; `.` is the root."""

LITTER = (".part", ".old", ".gone", ".lock", ".parts", ".tmp", ".journal", ".new")


def tree(root: Path) -> Tree:
    """Return the tree at a path; empty if nothing is there."""
    if not os.path.lexists(root):
        return {}
    entries = {".": _entry(root)}
    if root.is_dir() and not root.is_symlink():
        for folder, names, files in os.walk(root):
            for name in (*names, *files):
                path = Path(folder, name)
                entries[str(path.relative_to(root))] = _entry(path)
    return entries


def _entry(path: Path) -> tuple[str, str]:
    mode = path.lstat().st_mode
    kind = f"{stat.filemode(mode)}"
    if stat.S_ISREG(mode):
        return kind, hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if stat.S_ISLNK(mode):
        return kind, os.readlink(path)
    return kind, ""


def changes(before: Tree, after: Tree) -> list[str]:
    """Return the differences as `+new`, `-gone` and `~changed` names."""
    signs = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            sign = "+" if name not in before else "-" if name not in after else "~"
            signs.append(sign + name)
    return signs


def without(whole: Tree, *names: str) -> Tree:
    """Return a tree without some paths and everything below them."""
    return {
        path: entry
        for path, entry in whole.items()
        if not any(path == name or path.startswith(f"{name}/") for name in names)
    }


def holds(whole: Tree, part: Tree) -> bool:
    """Return whether everything in `part` is in `whole`, unchanged."""
    return all(whole.get(name) == entry for name, entry in part.items())
