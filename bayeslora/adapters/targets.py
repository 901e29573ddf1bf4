"""Choice of the linear layers of a model to adapt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from bayeslora.errors import InputError

DEFAULT_TARGETS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, OPT, BART
    ("query", "value"),  # BERT, RoBERTa, ELECTRA, ALBERT
    ("query_proj", "value_proj"),  # DeBERTa-v2 and -v3
    ("q_lin", "v_lin"),  # DistilBERT
    ("Wqkv",),  # ModernBERT, MPT: query, key and value in one matrix
    ("query_key_value",),  # GPT-NeoX, BLOOM
    ("qkv_proj",),  # Phi-3
    ("in_proj",),  # DeBERTa
    ("q", "v"),  # T5, MPNet
    ("c_attn",),  # GPT-2: recognised, then refused, because its layers are not linear layers
)
"""Names of query and value projections by architecture; the first matching set wins."""


def find_targets(
    model: nn.Module, target_modules: Sequence[str] | None = None, num_layers: int | None = None
) -> list[str]:
    """Return the dotted names of the linear layers to adapt, in the model's own order.

    Args:
        model: The host.
        target_modules: Suffixes of dotted names (`q_proj`, `self_attn.q_proj`) or regular
            expressions of whole names; `None` takes the first of `DEFAULT_TARGETS` that the
            model has.
        num_layers: Keep only the last `num_layers` layers of a list of transformer layers;
            `None`, or more layers than the list has, keeps all.

    Raises:
        InputError: An entry matches nothing, matches no plain linear layer, or is not a regular
            expression; or no layer is left.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    patterns = target_modules
    if patterns is None:
        known = (
            targets
            for targets in DEFAULT_TARGETS
            if all(any(_ends_with(name, target) for name in modules) for target in targets)
        )
        patterns = next(known, ())
        if not patterns:
            raise no_default(modules)
    chosen = {name for pattern in patterns for name in _matches(modules, pattern)}
    targets = [name for name in modules if name in chosen and _is_on_top(model, name, num_layers)]
    if not targets:
        raise InputError(
            f"target_modules {tuple(patterns)} match {len(chosen)} modules, but none in the last "
            f"{num_layers} layers; raise num_layers or pass None for all"
        )
    return targets


def split_at_layer(name: str) -> tuple[str, int] | None:
    """Return the list of transformer layers that contains a dotted name, and the layer's index.

    The index is the first numeric part, the list everything before it: `encoder.layer` and 3 for
    `encoder.layer.3.attention.self.query`. `None` without a number, as for `pooler.dense`.
    """
    parts = name.split(".")
    index = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return None if index is None else (".".join(parts[:index]), int(parts[index]))


def layers_path(names: Iterable[str]) -> str:
    """Return the dotted name of the list of layers that contains the first of `names` in a list.

    Empty if no name is in a list; no layer can then be run beforehand.
    """
    return next((split[0] for split in map(split_at_layer, names) if split), "")


def first_adapted_layer(names: Iterable[str]) -> int:
    """Return the first transformer layer whose output depends on an adapter.

    The outputs of the layers below it never change while adapters train. The result is 0 if a
    site is outside the layers, since it may act on all of them.
    """
    places = map(split_at_layer, names)
    return min((0 if place is None else place[1] for place in places), default=0)


def no_default(modules: Mapping[str, nn.Module]) -> InputError:
    """Return the error for an architecture whose layers to adapt are not known."""
    return InputError(
        "no default target_modules for this architecture; choose from its linear layers: "
        + _linear_endings(modules)
    )


def _matches(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    """Return the plain linear layers that one entry of `target_modules` selects."""
    named = [name for name in modules if _ends_with(name, pattern)]
    try:
        named = named or [name for name in modules if re.fullmatch(pattern, name)]
    except re.error as error:
        raise InputError(
            f"target_modules {pattern!r} is neither the ending of a module name nor a valid "
            f"regular expression: {error}"
        ) from None
    # No subclasses: quantised layers hold packed weights, and torch's attention modules read the
    # weight of their output layer without calling it.
    linear = [name for name in named if type(modules[name]) is nn.Linear]
    if not linear:
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in named})) or "no module"
        raise InputError(
            f"target_modules {pattern!r} matches {kinds}, not nn.Linear (Conv1D, as in GPT-2, "
            f"cannot be adapted); linear layers end in {_linear_endings(modules)}"
        )
    return linear


def _linear_endings(modules: Mapping[str, nn.Module]) -> str:
    """Return suffixes that would match linear layers; a numeric one keeps the name before it."""
    endings = {
        ".".join(name.split(".")[-2:]) if name.split(".")[-1].isdigit() else name.split(".")[-1]
        for name, module in modules.items()
        if type(module) is nn.Linear
    }
    return ", ".join(repr(ending) for ending in sorted(endings)) or "(there are none)"


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _is_on_top(model: nn.Module, name: str, num_layers: int | None) -> bool:
    """Return whether a module is outside the list of layers or in its last `num_layers`."""
    split = split_at_layer(name)
    if num_layers is None or split is None:
        return True
    path, number = split
    layers = model.get_submodule(path)
    return not isinstance(layers, nn.ModuleList) or number >= len(layers) - num_layers
