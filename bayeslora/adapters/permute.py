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
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.adapters.columns import check_columns
from bayeslora.adapters.inject import linear_at
from bayeslora.errors import InputError

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@torch.no_grad()
def chosen_first(model: nn.Module, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder heads and channels of a plain model in place, those of an adapter first.

    The model computes what it did, up to the order of its sums.

    Args:
        model: Of the LLaMA family: layers `q_proj`, `k_proj`, `v_proj`, `o_proj` and `gate_proj`,
            `up_proj`, `down_proj`.
        adapter: `<layer>.idx` [k] and `<layer>.sel` [out, k], as `adapter_state` names them, of
            output and down projections.

    Returns:
        The adapter for the model as it is now, `idx` ascending.

    Raises:
        InputError: A layer is another one, is not there, or has parts that an order would break, or
            columns are not its own. The model is then as it was.
    """
    orders: dict[str, Tensor] = {}
    for name in [name.removesuffix(".idx") for name in adapter if name.endswith(".idx")]:
        idx = check_columns(name, adapter[f"{name}.idx"], linear_at(model, name).in_features)
        orders[name] = _order(model, name, idx)
    found = {}
    for name, order in orders.items():
        _permute(model, name, order)
        # Column order[j] now stands at j.
        places = order.argsort()[adapter[f"{name}.idx"].cpu()]
        ascending = places.argsort()
        found[f"{name}.idx"] = places[ascending]
        found[f"{name}.sel"] = adapter[f"{name}.sel"][:, ascending]
    return found


def _order(model: nn.Module, name: str, idx: Tensor) -> Tensor:
    """Return the new order of a layer's columns, [in] int64."""
    parent, _, kind = name.rpartition(".")
    width = linear_at(model, name).in_features
    chosen = torch.zeros(width, dtype=torch.bool)
    chosen[idx.cpu()] = True
    if kind == _FEED_FORWARD[-1]:
        _check_parts(model, parent, _FEED_FORWARD, shared=0)
        return _first(chosen)
    if kind != _ATTENTION[-1]:
        raise InputError(
            f"{name} cannot be reordered: only layers {_ATTENTION[-1]!r} and "
            f"{_FEED_FORWARD[-1]!r} of the LLaMA family can"
        )
    groups, heads, size = _heads(model, parent)
    _check_parts(model, parent, _ATTENTION, shared=size)
    return _head_order(chosen.view(groups, heads, size).any(-1), size)


def _head_order(chosen: Tensor, size: int) -> Tensor:
    """Return the order of columns for heads chosen [groups, heads of a group] bool.

    The groups with the most chosen heads come first, and in each of them its chosen heads.
    """
    groups, heads = chosen.shape
    by_group = chosen.sum(1).argsort(descending=True, stable=True)
    within = torch.stack([_first(row) for row in chosen])
    numbers = (torch.arange(groups)[:, None] * heads + within)[by_group].flatten()
    return (numbers[:, None] * size + torch.arange(size)).flatten()


def _first(chosen: Tensor) -> Tensor:
    """Return the numbers of the chosen, then of the others, each ascending."""
    return (~chosen).to(torch.int8).argsort(stable=True)


def _permute(model: nn.Module, name: str, order: Tensor) -> None:
    parent, _, kind = name.rpartition(".")
    layer = linear_at(model, name)
    layer.weight.copy_(layer.weight[:, order.to(layer.weight.device)])
    if kind == _FEED_FORWARD[-1]:
        for part in _FEED_FORWARD[:-1]:
            _take_rows(linear_at(model, f"{parent}.{part}"), order)
        return
    groups, heads, size = _heads(model, parent)
    _take_rows(linear_at(model, f"{parent}.q_proj"), order)
    by_group = order.view(groups, heads * size)[:, 0] // (heads * size)
    rows = (by_group[:, None] * size + torch.arange(size)).flatten()
    for part in ("k_proj", "v_proj"):
        _take_rows(linear_at(model, f"{parent}.{part}"), rows)


def _take_rows(layer: nn.Linear, rows: Tensor) -> None:
    rows = rows.to(layer.weight.device)
    layer.weight.copy_(layer.weight[rows])
    if layer.bias is not None:
        layer.bias.copy_(layer.bias[rows])


def _heads(model: nn.Module, parent: str) -> tuple[int, int, int]:
    """Return how many groups there are, heads in each, and columns of a head."""
    config: Any = getattr(model, "config", None)
    heads = int(getattr(config, "num_attention_heads", None) or 0)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    width = linear_at(model, f"{parent}.o_proj").in_features
    rows = linear_at(model, f"{parent}.k_proj").out_features
    if not heads or width % heads or heads % groups or rows != width // heads * groups:
        raise InputError(
            f"{parent}: {width} columns and {rows} rows of keys are not {heads} heads in {groups} "
            "groups, as the model's configuration has them"
        )
    return groups, heads // groups, width // heads


def _check_parts(model: nn.Module, parent: str, known: tuple[str, ...], *, shared: int) -> None:
    """Complain about parameters that an order would have to reach too.

    Args:
        model: The model.
        parent: The module around the layers.
        known: The layers that are reordered.
        shared: Numbers that parameters for all heads alike have, such as norms of a head.
    """
    for name in known:
        linear_at(model, f"{parent}.{name}")
    for name, value in model.get_submodule(parent).named_parameters():
        if name.split(".")[0] not in known and value.numel() != shared:
            raise InputError(
                f"{parent} cannot be reordered: {name} {list(value.shape)} would have to follow"
            )
