"""Layers that PEFT adapts according to its options, to detect incomplete checkpoints.

A missing layer shows only in a comparison with the options and the model.

PEFT's own `check_target_module_exists` is not called, since PEFT is optional for reading
checkpoints. The tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bayeslora.errors import InputError
from bayeslora.peft_layout import CONFIG_FILE, check_patterns

_LIST = re.compile(r"(?:.*?\.)??(?=\d+(?:\.|$))")
_NAMES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")


@dataclass(frozen=True)
class Targets:
    """PEFT's options for the choice of layers; a string is a pattern of whole paths.

    Attributes:
        modules: Layers to adapt; a list holds suffixes of their paths.
        exclude: Layers to exclude from these.
        saved: Modules that are trained in full and not adapted.
        layers: Indices of the layers to adapt in a list of layers; empty for all.
        lists: Names of the lists of layers; empty for any name.
    """

    modules: str | tuple[str, ...]
    exclude: str | tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    lists: tuple[str, ...] = ()

    @property
    def patterns(self) -> list[str]:
        """All options that are regular expressions."""
        whole = [item for item in (self.modules, self.exclude) if isinstance(item, str)]
        return [*whole, *self.saved, *self.lists]

    def match(self, path: str) -> bool:
        """Return whether PEFT adapts the layer at `path`."""
        if _is_named(path, self.exclude):
            return False
        if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in self.saved):
            return False
        if isinstance(self.modules, str) or path in self.modules or not self.layers:
            return _is_named(path, self.modules)
        return _is_named(path, self.modules) and self._number(path) in self.layers

    def _number(self, path: str) -> int | None:
        """Return a layer's index in the outermost list that contains it."""
        names = [rf"(?:^|.*?\.){name}" for name in self.lists] or [r".*?\.[^.]*"]
        matches = (re.match(rf"{name}\.(?P<idx>\d+)\.", path) for name in names)
        match = next((match for match in matches if match), None)
        return int(match["idx"]) if match else None


def read_targets(options: Mapping[str, Any]) -> Targets | None:
    """Return the target options of a configuration; None if it has none.

    Raises:
        InputError: An option is neither a list of names nor a valid pattern.
    """
    if options.get("target_modules") in (None, "all-linear"):
        return None
    modules, exclude, saved, lists = (_names(options, key) for key in _NAMES)
    layers = options.get("layers_to_transform")
    numbers = [layers] if isinstance(layers, int) else layers or []
    if not isinstance(numbers, list) or not all(isinstance(item, int) for item in numbers):
        raise InputError(
            f"layers_to_transform must be a number or a list of numbers, got {layers!r}"
        )
    return Targets(modules, exclude, _listed(saved), tuple(numbers), _listed(lists))


def missing_layers(
    homes: Mapping[str, str], linear: Collection[str], targets: Targets
) -> list[str]:
    """Return the layers of a model that the options select and a checkpoint lacks.

    Only lists of layers with at least one layer in the checkpoint are considered. The other
    modules, such as a pooler or another tower, depend on the model's class, which may differ from
    the class that PEFT wrapped.

    Args:
        homes: Name in the model of each layer, by its path in the checkpoint.
        linear: Names of the model's linear layers.
        targets: The options.
    """
    peft_path, model_path = next(iter(homes.items()))
    # One is a suffix of the other: PEFT may have wrapped more than the model, or less.
    shared = min(peft_path, model_path, key=len)
    peft_prefix, model_prefix = peft_path.removesuffix(shared), model_path.removesuffix(shared)
    lists = {_list(name.removeprefix(model_prefix)) for name in homes.values()} - {None}
    candidates = {
        name: name.removeprefix(model_prefix) for name in set(linear) - set(homes.values())
    }
    check_patterns(
        CONFIG_FILE, targets.patterns, [peft_prefix + path for path in candidates.values()]
    )
    return [
        name
        for name, path in sorted(candidates.items())
        if _list(path) in lists and targets.match(peft_prefix + path)
    ]


def _list(name: str) -> str | None:
    """Return the path of the outermost list that contains a module."""
    match = _LIST.match(name)
    return match[0] if match else None


def _is_named(path: str, names: str | tuple[str, ...]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _names(options: Mapping[str, Any], key: str) -> str | tuple[str, ...]:
    value = options.get(key) or ()
    patterns = value
    if isinstance(value, str):
        patterns = (value,)
    elif not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{key} must be a pattern or a list of names, got {value!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(f"{key} has the invalid pattern {pattern!r}: {error}") from None
    return value if isinstance(value, str) else tuple(value)


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
