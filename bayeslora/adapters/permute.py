"""Heads and channels in another order, so that those of an adapter come first.

Training needs no order (`columns.py`). Code that serves an adapter may: the columns of chosen
channels are then one slice of the weight, and so are those of chosen heads within each group.

    channels   rows of the up and gate projections, columns of the down projection
    heads      rows of the query projection, columns of the output projection
    groups     the heads that share a key and a value; their rows, with those of the heads

A head may change its place within its group, and groups may change places. A head that left its
group would meet another's keys and values.

Source: Yang et al. 2024, arXiv 2412.06289, who permute so for models without groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.adapters.fuse import Adapter, changes_of, check_change
from bayeslora.adapters.inject import linear_at
from bayeslora.errors import InputError

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_HEAD_NORMS = ("q_norm", "k_norm")


@dataclass(frozen=True)
class _Order:
    """Where the columns of one layer go, and the rows of the layers that feed it.

    Attributes:
        layer: The output or down projection.
        columns: New order of its columns, [in] int64.
        rows: The layers whose rows follow, each with their new order.
    """

    layer: nn.Linear
    columns: Tensor
    rows: tuple[tuple[nn.Linear, Tensor], ...]


@torch.no_grad()
def chosen_first(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Reorder heads and channels of a plain model in place, those of an adapter first.

    The model computes what it did, up to the order of its sums.

    Args:
        model: Of the LLaMA family: layers `q_proj`, `k_proj`, `v_proj`, `o_proj` and `gate_proj`,
            `up_proj`, `down_proj`, with norms of a head or none.
        adapter: Sites or tensors of columns of output and down projections.

    Returns:
        The adapter for the model as it is now: `<layer>.idx` [k], ascending, and `<layer>.sel`
        [out, k], on the CPU.

    Raises:
        InputError: A layer is another one, is not there, or has parts that an order would break, or
            the adapter is not one of columns or does not fit. The model is then as it was.
    """
    changes = changes_of(adapter)
    for name, (idx, change) in changes.items():
        check_change(model, name, idx, change)
    orders = {name: _order(model, name, idx) for name, (idx, _) in changes.items()}
    found = {}
    for name, (idx, change) in changes.items():
        order = orders[name]
        _take(order.layer.weight, 1, order.columns)
        for layer, rows in order.rows:
            for value in (layer.weight, layer.bias):
                if value is not None:
                    _take(value, 0, rows)
        # Column order[j] now stands at j.
        places = order.columns.argsort()[idx.long().cpu()]
        ascending = places.argsort()
        found[f"{name}.idx"] = places[ascending]
        found[f"{name}.sel"] = change.detach().cpu()[:, ascending]
    return found


def _take(value: Tensor, axis: int, order: Tensor) -> None:
    value.copy_(value.index_select(axis, order.to(value.device)))


def _order(model: nn.Module, name: str, idx: Tensor) -> _Order:
    parent, _, kind = name.rpartition(".")
    layer = linear_at(model, name)
    chosen = torch.zeros(layer.in_features, dtype=torch.bool)
    chosen[idx.long().cpu()] = True
    if kind == _FEED_FORWARD[-1]:
        order = _first(chosen)
        feeding = dict.fromkeys(_FEED_FORWARD[:-1], order)
        _check_parts(model, parent, _FEED_FORWARD, {})
    elif kind == _ATTENTION[-1]:
        groups, heads, size = _heads(model, parent, layer.in_features)
        _check_parts(model, parent, _ATTENTION, dict.fromkeys(_HEAD_NORMS, size))
        by_group, order = _head_order(chosen.view(groups, heads, size).any(-1), size)
        feeding = {"q_proj": order, "k_proj": by_group, "v_proj": by_group}
    else:
        raise InputError(
            f"{name} cannot be reordered: only layers {_ATTENTION[-1]!r} and "
            f"{_FEED_FORWARD[-1]!r} of the LLaMA family can"
        )
    rows = tuple((linear_at(model, f"{parent}.{part}"), new) for part, new in feeding.items())
    for part, (fed, new) in zip(feeding, rows, strict=True):
        if fed.out_features != len(new):
            raise InputError(
                f"{parent} cannot be reordered: {part} has {fed.out_features} rows, not one for "
                f"each of {len(new)} that the order is of"
            )
    return _Order(layer, order, rows)


def _head_order(chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the order of rows of keys, and of columns, for heads [groups, heads of a group] bool.

    The groups with the most chosen heads come first, and in each of them its chosen heads.
    """
    groups, heads = chosen.shape
    by_group = chosen.sum(1).argsort(descending=True, stable=True)
    within = torch.stack([_first(row) for row in chosen])
    numbers = (torch.arange(groups)[:, None] * heads + within)[by_group].flatten()
    return _widened(by_group, size), _widened(numbers, size)


def _widened(numbers: Tensor, size: int) -> Tensor:
    """Return the numbers of the rows of blocks that each have `size`."""
    return (numbers[:, None] * size + torch.arange(size)).flatten()


def _first(chosen: Tensor) -> Tensor:
    """Return the numbers of the chosen, then of the others, each ascending."""
    return (~chosen).to(torch.int8).argsort(stable=True)


def _heads(model: nn.Module, parent: str, width: int) -> tuple[int, int, int]:
    """Return how many groups there are, heads in each, and columns of a head."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "num_kv_shared_layers", 0):
        raise InputError(f"{parent} cannot be reordered: layers share keys and values")
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    if not heads or width % heads or heads % groups:
        raise InputError(
            f"{parent}: {width} columns are not {heads} heads in {groups} groups, as the model's "
            "configuration has them"
        )
    return groups, heads // groups, width // heads


def _check_parts(
    model: nn.Module, parent: str, known: tuple[str, ...], norms: Mapping[str, int]
) -> None:
    """Complain about parameters that an order would have to reach too.

    Args:
        model: The model.
        parent: The module around the layers.
        known: The layers that are reordered.
        norms: Modules whose parameters are the same for all heads, with the size that they then
            have.
    """
    for name, value in model.get_submodule(parent).named_parameters():
        part = name.split(".")[0]
        if part not in known and value.shape != (norms.get(part),):
            raise InputError(
                f"{parent} cannot be reordered: {name} {list(value.shape)} would have to follow"
            )
