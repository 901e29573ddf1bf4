"""Second moments of the inputs of linear layers, computed in one masked pass.

    C = (1/M) Σ x xᵀ   over the M real tokens of a context, uncentred

CorDA decomposes a weight with C, which is also the input factor of K-FAC for the layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError


def real_tokens(name: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return a boolean mask [...] of the states of a batch that belong to real tokens.

    If a layer sees one state per row, all of them are real.

    Args:
        name: Name of the layer in the error message.
        states: [B, T, d], [B·T, d], or [B, d].
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: The states have another shape.
    """
    rows, tokens = mask.shape
    leading = states.shape[:-1]
    if leading == (rows,):
        return torch.ones(rows, dtype=torch.bool, device=states.device)
    if leading not in {(rows, tokens), (rows * tokens,)}:
        raise InputError(
            f"{name} has inputs of shape {list(states.shape)}, expected {rows} rows of {tokens} "
            f"tokens, or {rows} rows; choose other target_modules"
        )
    return mask.bool().reshape(leading).to(states.device)


@dataclass(frozen=True)
class SecondMoment:
    """Mean of x xᵀ over tokens.

    Attributes:
        matrix: [in, in] float64, symmetric.
        count: M, the number of tokens.
    """

    matrix: Tensor
    count: int


@torch.no_grad()
def second_moments(
    forward: Callable[[Any], object],
    layers: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Tensor]],
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, SecondMoment]:
    """Return the second moment of the inputs of each layer, on the CPU.

    The result does not depend on batch size, order or padding. The computation is in float64 on
    the device of the layers and takes 8·in² bytes there per layer.

    Args:
        forward: Runs the model, best in evaluation mode, on a batch.
        layers: Modules by name, each called with [B, T, in], [B·T, in], or [B, in].
        batches: Mappings with `attention_mask` [B, T], 1 at real tokens; `forward` gets them whole.
        advance: Called with the number of rows after each batch.

    Raises:
        InputError: A layer is not called, or its inputs are not tokens of the batch or not finite.
    """
    totals: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    mask = torch.ones(0, 0)
    last: tuple[Tensor, Tensor, int] | None = None

    def add(name: str, inputs: Tensor) -> None:
        nonlocal last
        # Query, key and value projections are called with the same tensor, and share the product.
        if last is None or last[0] is not inputs:
            rows = inputs.detach()[real_tokens(f"layer {name}", inputs, mask)].double()
            last = (inputs, rows.mT @ rows, len(rows))
        totals[name] = totals[name] + last[1] if name in totals else last[1]
        counts[name] += last[2]

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
            hooks.enter_context(hook)
        for batch in batches:
            mask, last = batch["attention_mask"], None
            forward(batch)
            advance(len(mask))
    moments = {}
    for name in layers:
        matrix = (totals[name] / counts[name]).cpu()
        if not bool(matrix.isfinite().all()):
            raise InputError(f"the inputs of layer {name} are not finite on the context")
        moments[name] = SecondMoment((matrix + matrix.mT) / 2, counts[name])
    return moments
