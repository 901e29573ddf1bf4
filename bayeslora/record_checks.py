"""Whether the parts of a model record have the types and ranges that its readers rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayeslora.option_checks import DTYPES

# What the mappings of a record must hold, and the least value of its numbers.
_MAPPINGS: dict[str, set[str]] = {
    "backbone": {"name", "fingerprint", "dtype", "kind"},
    "columns": {"text", "label", "pair"},
    "posterior": {"name"},
    "feature_scores": set(),
    "tasks": set(),
    "head": set(),
    "data": set(),
    "dropped": set(),
    "training": set(),
    "results": set(),
    "versions": set(),
}
# Columns that data need not have.
_ABSENT = ("pair", "choices")
_NUMBERS = {"max_length": 1, "num_members": 1, "num_train": 0, "seed": 0}
_LARGEST = 1 << 40


def problem(record: Any, kinds: tuple[str, ...]) -> str:
    """Return what is wrong with the parts of a record; empty where nothing is.

    Args:
        record: A `ModelRecord`.
        kinds: The kinds of backbone that there are.
    """
    for name, keys in _MAPPINGS.items():
        found = getattr(record, name)
        if not isinstance(found, Mapping) or not found.keys() >= keys:
            return f"{name!r} must hold {', '.join(map(repr, sorted(keys))) or 'a mapping'}"
    for name, least in _NUMBERS.items():
        found = getattr(record, name)
        if not _is_whole(found) or not least <= found <= _LARGEST:
            return f"{name!r} must be an integer >= {least}, got {str(found)[:40]}"
    if not isinstance(record.adapter, Mapping | None):
        return "'adapter' must be a mapping or null"
    for name, column in record.columns.items():
        several = (
            name == "choices"
            and isinstance(column, list)
            and all(isinstance(one, str) for one in column)
        )
        if not (isinstance(column, str) or several or (name in _ABSENT and column is None)):
            return f"'columns' must hold names, got {column!r} as {name!r}"
    return _classes_problem(record) or _backbone_problem(record.backbone, kinds)


def _classes_problem(record: Any) -> str:
    if not _are_names(record.classes):
        return "'classes' must list two or more different names"
    sizes = [*record.tasks.values()]
    if sizes and not (all(map(_is_whole, sizes)) and sum(sizes) == len(record.classes)):
        return f"'tasks' must hold numbers of classes, {len(record.classes)} in all"
    if not isinstance(record.across_tasks, bool):
        return f"'across_tasks' must be true or false, got {str(record.across_tasks)[:40]}"
    return ""


def _backbone_problem(backbone: Mapping[str, Any], kinds: tuple[str, ...]) -> str:
    for name in ("name", "fingerprint"):
        if not isinstance(backbone[name], str):
            return f"'backbone' must hold a text as {name!r}, got {str(backbone[name])[:40]}"
    for name, allowed in (("dtype", DTYPES), ("kind", kinds)):
        if backbone[name] not in allowed:
            return (
                f"'backbone' must hold one of {', '.join(map(repr, allowed))} as {name!r}, got "
                f"{str(backbone[name])[:40]!r}"
            )
    if not isinstance(backbone.get("settings", {}), Mapping):
        return "'backbone' must hold a mapping as 'settings'"
    for name in ("layer", "template"):
        if not isinstance(backbone.get(name), str | None):
            return f"'backbone' must hold a text or null as {name!r}"
    depth = backbone.get("depth")
    if depth is not None and not (_is_whole(depth) and depth >= 1):
        return f"'backbone' must hold an integer >= 1 or null as 'depth', got {str(depth)[:40]}"
    return _verbaliser_problem(backbone.get("verbaliser"))


def _verbaliser_problem(verbaliser: Any) -> str:
    words = verbaliser.values() if isinstance(verbaliser, Mapping) else [verbaliser or ""]
    if all(isinstance(word, str) for word in words):
        return ""
    return "'backbone' must hold a text, words by class or null as 'verbaliser'"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(classes: Any) -> bool:
    strings = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return strings and len(classes) == len(set(classes)) >= 2
