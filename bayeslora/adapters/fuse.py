"""Adapters of columns on one backbone: several at once, or in and out of its weights.

Changes of different columns of a weight do not touch each other, so their sum is what each of them
does to its own columns, whatever the order. For the same reason an adapter is merged into a weight
in use, and taken out again bit by bit, by writing these columns alone.

Source: Yang et al. 2024, arXiv 2412.06289, whose adapters of apart columns are fused so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bayeslora.adapters.columns import Columns, check_columns, named
from bayeslora.adapters.inject import adapter_state, inject_columns, linear_at
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
        for layer, change in changes_of(adapter).items():
            changes.setdefault(layer, []).append(change)
    if not adapters:
        raise InputError("there are no adapters of columns to fuse")
    found = {layer: _joined(layer, items) for layer, items in changes.items()}
    return inject_columns(model, found)


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Add the changes of an adapter of columns to the weights of a plain model, in place.

    Whatever shares these weights changes with them. Nothing else of a weight is touched, so that a
    model that serves one task can be switched to another without a copy of itself.

    Args:
        model: A backbone of the kind that the adapter was trained on.
        adapter: Its sites or tensors.

    Returns:
        What `unmerge` puts back: `<layer>.idx` [k] and `<layer>.kept` [out, k], the columns as they
        were, in the weight's own precision and on its device.

    Raises:
        InputError: The adapter is not one of columns, or does not fit, or two of its layers share a
            weight. The model is then as it was.
    """
    changes = changes_of(adapter)
    weights = {layer: check_change(model, layer, *change) for layer, change in changes.items()}
    _check_apart(weights)
    before: dict[str, Tensor] = {}
    for layer, (idx, change) in changes.items():
        weight = weights[layer]
        at = idx.long().to(weight.device)
        kept = weight.index_select(1, at)
        # Of two precisions the sum has the finer one.
        weight.index_copy_(1, at, (kept + change.to(weight.device)).to(weight.dtype))
        before |= {f"{layer}.idx": at, f"{layer}.kept": kept}
    return before


@torch.no_grad()
def unmerge(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Write back what `merge` returned, in place: the weights are what they were, bit by bit.

    Adapters whose columns are apart are taken out in any order, others the last one first.

    Raises:
        InputError: These are no columns of this model. It is then as it was.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for name, idx in before.items():
        layer, _, key = name.rpartition(".")
        if key == "idx" and f"{layer}.kept" in before:
            kept = before[f"{layer}.kept"]
            found.append((check_change(model, layer, idx, kept), idx, kept))
    if not found or 2 * len(found) != len(before):
        raise InputError("these are not the columns that merging an adapter returned")
    for weight, idx, kept in found:
        weight.index_copy_(1, idx.to(weight.device), kept.to(weight))


def _check_apart(weights: Mapping[str, Tensor]) -> None:
    """Complain about layers that hold one tensor: it would get the changes of both."""
    homes: dict[int, str] = {}
    for layer, weight in weights.items():
        first = homes.setdefault(weight.data_ptr(), layer)
        if first != layer:
            raise InputError(f"{first} and {layer} share a weight, which cannot take two changes")


def check_change(model: nn.Module, layer: str, idx: Tensor, values: Tensor) -> Tensor:
    """Return the weight [out, in] of a plain layer, if columns idx [k] of values [out, k] fit it.

    Raises:
        InputError: They do not, or the layer is not there.
    """
    weight = linear_at(model, layer).weight
    check_columns(layer, idx, weight.shape[1])
    if values.shape != (len(weight), len(idx)):
        raise InputError(
            f"{layer}: the columns have shape {list(values.shape)}, the model needs "
            f"{[len(weight), len(idx)]}"
        )
    return weight.data


def changes_of(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """Return `(idx [k], change [out, k])` of each layer.

    Raises:
        InputError: The adapter is not one of columns, or has none.
    """
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
    if not changes:
        raise InputError("the adapter has no tensors; one of columns ('s2ft') is needed")
    return changes


def _joined(layer: str, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the columns of several changes of one layer, ascending, with their change."""
    idx = torch.cat([item for item, _ in items])
    numbers, counts = torch.unique(idx, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{layer}: several adapters change columns {named(numbers[counts > 1])}, and columns "
            "of different trainings cannot be added; train one of them with the option "
            "avoid=DIRECTORY of the other"
        )
    order = idx.argsort()
    return idx[order], torch.cat([sel for _, sel in items], 1)[:, order]
