"""Several adapters of columns on one backbone at once.

Changes of different columns of a weight do not touch each other, so their sum is what each of them
does to its own columns, whatever the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bayeslora.adapters.columns import Columns, named
from bayeslora.adapters.inject import adapter_state, inject_columns
from bayeslora.errors import InputError

Adapter: TypeAlias = Sequence[Columns] | Mapping[str, Tensor]
"""The sites of a model, or tensors as `adapter_state` or a saved model's `adapter` names them."""

_PREFIX = "adapter."


@torch.no_grad()
def fuse(model: nn.Module, adapters: Sequence[Adapter]) -> list[Columns]:
    """Put the columns of several adapters into a plain model and return the sites.

    Args:
        model: A backbone of the kind that the adapters were trained on; it is changed in place.
        adapters: In any order.

    Raises:
        InputError: Two adapters change the same column, the message names layer and columns; or an
            adapter is not one of columns, or does not fit the model. The model is then left as it
            was.
    """
    changes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        for layer, change in _changes(adapter).items():
            changes.setdefault(layer, []).append(change)
    if not changes:
        raise InputError("there are no adapters of columns to fuse")
    found = {layer: _joined(layer, items) for layer, items in changes.items()}
    return inject_columns(model, found)


def _changes(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return `(idx [k], change [out, k])` of each layer."""
    tensors = adapter if isinstance(adapter, Mapping) else adapter_state(adapter)
    state = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    for name in state:
        layer, _, key = name.rpartition(".")
        idx, sel = state.get(f"{layer}.idx"), state.get(f"{layer}.sel")
        if key not in ("idx", "sel") or idx is None or sel is None:
            raise InputError(
                f"adapter tensor {name!r} is not one of an adapter of columns ('s2ft')"
            )
        if sel.ndim != 2 or sel.shape[1:] != idx.shape:
            raise InputError(
                f"{layer}: the change has shape {list(sel.shape)}, of {len(idx)} columns"
            )
        changes[layer] = (idx, sel)
    return changes


def _joined(layer: str, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the columns of several changes of one layer, ascending, with their change."""
    idx = torch.cat([item for item, _ in items])
    numbers, counts = torch.unique(idx, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{layer}: several adapters change columns {named(numbers[counts > 1])}, and columns "
            "of different trainings cannot be added; fuse adapters whose columns are apart"
        )
    order = idx.argsort()
    return idx[order], torch.cat([sel for _, sel in items], 1)[:, order]
