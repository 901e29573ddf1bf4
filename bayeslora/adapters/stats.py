"""Second moments of the inputs of linear layers, computed in one masked pass.

    C = (1/M) Σ x xᵀ   over the M real tokens of a context, uncentred

CorDA decomposes a weight with C, which is also the input factor of K-FAC for the layer.
"""

from __future__ import annotations

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
    sums = _Sums()

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: sums.add(name, inputs[0])

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(adding(name)))
        for batch in batches:
            sums.mask = batch["attention_mask"]
            forward(batch)
            sums.forget()
            advance(len(sums.mask))
    return {name: sums.moment(name) for name in layers}


class _Sums:
    """Running sums per layer; layers with the same input share the product."""

    def __init__(self) -> None:
        self.mask = torch.ones(0, 0)
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._last: tuple[Tensor, Tensor, int] | None = None

    def add(self, name: str, inputs: Tensor) -> None:
        # Query, key and value projections are called with the same tensor.
        if self._last is None or self._last[0] is not inputs:
            real = real_tokens(f"layer {name}", inputs, self.mask)
            rows = inputs.detach()[real].double()
            self._last = (inputs, rows.mT @ rows, len(rows))
        _, product, count = self._last
        if name in self._totals:
            self._totals[name] += product
        else:
            self._totals[name] = product.clone()
        self._counts[name] = self._counts.get(name, 0) + count

    def forget(self) -> None:
        self._last = None

    def moment(self, name: str) -> SecondMoment:
        matrix = (self._totals[name] / self._counts[name]).cpu()
        if not bool(matrix.isfinite().all()):
            raise InputError(f"the inputs of layer {name} are not finite on the context")
        return SecondMoment((matrix + matrix.mT) / 2, self._counts[name])
