"""Lookup of the list of transformer layers in a model of any architecture."""

from __future__ import annotations

from torch import nn

from bayeslora.errors import InputError


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the dotted name of a model's list of layers, and the list.

    This is the longest list of modules of one class that is not inside another list.

    Raises:
        InputError: There is none, or several are the longest.
    """
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in lists)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            lists.append((name, module))
    alike = [(name, items) for name, items in lists if len({_kind(item) for item in items}) == 1]
    longest = max((len(items) for _, items in alike), default=0)
    best = [(name, items) for name, items in alike if len(items) == longest]
    if len(best) == 1:
        return best[0]
    problem = "no list of layers of the same class"
    if best:
        names = ", ".join(name or "itself" for name, _ in best)
        problem = f"several lists of {longest} layers each ({names})"
    raise InputError(f"cannot find the layers of {type(model).__name__}: it has {problem}")


def is_sharded(module: nn.Module | type[nn.Module]) -> bool:
    """Return whether FSDP has sharded a module's weights, which changes its class."""
    return hasattr(module, "set_reshard_after_forward")


def _kind(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in type(module).__mro__ if not is_sharded(kind))
