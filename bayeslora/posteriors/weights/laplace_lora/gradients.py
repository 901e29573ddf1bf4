"""Per-row gradients of the logits with respect to the weights of linear layers.

A linear layer `h = W a` that is called once per forward pass has, for a row with tokens t,

    ∂(vᵀz) / ∂W = Σ_t g_t a_tᵀ,   g_t = ∂(vᵀz) / ∂h_t

so inputs a and output gradients g, recorded by hooks, yield it for every row of a batch at once.
Each vector v costs one backward pass, down to the lowest of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayeslora.adapters.real_tokens import real_tokens
from bayeslora.errors import InputError


@dataclass
class Seen:
    """Record of a layer's last forward pass by a hook.

    Attributes:
        inputs: [..., in], detached.
        outputs: [..., out], in the graph.
        calls: Number of calls of the layer.
    """

    inputs: Tensor
    outputs: Tensor
    calls: int


@dataclass(frozen=True)
class LayerGradients:
    """Inputs and output gradients of one linear layer for a batch; zero at padding.

    Attributes:
        inputs: [B, T, in].
        gradients: [K, B, T, out], for each of K vectors v.
        num_tokens: Number of real tokens in the batch.
    """

    inputs: Tensor
    gradients: Tensor
    num_tokens: int

    def matrices(self) -> Tensor:
        """Return ∂(vᵀz)/∂W of each row, [B, K, out, in] float64."""
        return torch.einsum("kbto,bti->bkoi", self.gradients.double(), self.inputs.double())


@contextmanager
def watched(layers: Sequence[nn.Linear]) -> Iterator[list[Seen | None]]:
    """Yield the records of each layer's last call in a forward pass, None before it."""
    seen: list[Seen | None] = [None] * len(layers)

    def recorder(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            previous = seen[index]
            calls = 1 if previous is None else previous.calls + 1
            seen[index] = Seen(inputs[0].detach(), outputs, calls)

        return hook

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_hook(recorder(index)))
        yield seen


def backward(
    features: Tensor,
    seen: Sequence[Seen | None],
    names: Sequence[str],
    directions: Tensor,
    mask: Tensor,
) -> list[LayerGradients]:
    """Return the gradients of `directions · features` for every layer, by K backward passes.

    Args:
        features: [B, ...], with their graph.
        seen: Records of the hooks in the pass that computed `features`.
        names: Names of the layers, for messages.
        directions: [K, B, ...], multiplied with the features; Wᵀv for the gradient of vᵀWφ.
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: A layer took no part in the pass or was called more than once, or its inputs
            are neither per token nor per row.
    """
    records = [_called_once(record, name) for record, name in zip(seen, names, strict=True)]
    outputs = [record.outputs for record in records]
    by_direction = [
        torch.autograd.grad(features, outputs, direction, retain_graph=True, materialize_grads=True)
        for direction in directions.to(features.dtype)
    ]
    return [
        _masked(record.inputs, torch.stack(gradients), mask, name)
        for record, gradients, name in zip(
            records, zip(*by_direction, strict=True), names, strict=True
        )
    ]


def _called_once(record: Seen | None, name: str) -> Seen:
    if record is None:
        raise InputError(f"adapter layer {name} was not called in the network's forward pass")
    if record.calls > 1:
        raise InputError(
            f"adapter layer {name} is called {record.calls} times per pass, because layers share "
            "its weights; per-row gradients need layers that are called once",
            code="shared-layers",
        )
    return record


def _masked(inputs: Tensor, gradients: Tensor, mask: Tensor, name: str) -> LayerGradients:
    """Return both as [..., B, T, ·] with zeros at padding; a layer may see one state per row."""
    real = real_tokens(f"adapter layer {name}", inputs, mask)
    # Filled, not multiplied: values at padding need not be finite.
    a, g = (values.masked_fill(~real[..., None], 0) for values in (inputs, gradients))
    rows = len(mask)
    return LayerGradients(
        a.reshape(rows, -1, a.shape[-1]), g.reshape(len(g), rows, -1, g.shape[-1]), int(real.sum())
    )
