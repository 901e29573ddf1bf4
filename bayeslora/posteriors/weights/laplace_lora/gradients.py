"""Gradients of the logits with respect to some linear layers' weights, row by row.

A linear layer `h = W a` that is called once a forward pass has, for a row with tokens t,

    ∂(vᵀz) / ∂W = Σ_t g_t a_tᵀ,   g_t = ∂(vᵀz) / ∂h_t

so inputs a and output gradients g, caught by hooks, say it for every row of a batch at once. Each
vector v costs one backward pass, down to the lowest of the layers and no further.
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
    """What a hook caught in a layer's last forward pass.

    Attributes:
        inputs: [..., in], without their graph.
        outputs: [..., out], inside the graph.
        calls: How often the layer was called.
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
        num_tokens: Real tokens of the batch.
    """

    inputs: Tensor
    gradients: Tensor
    num_tokens: int

    def matrices(self) -> Tensor:
        """Return ∂(vᵀz)/∂W of each row, [B, K, out, in] float64."""
        return torch.einsum("kbto,bti->bkoi", self.gradients.double(), self.inputs.double())


@contextmanager
def watched(layers: Sequence[nn.Linear]) -> Iterator[list[Seen | None]]:
    """Yield what each layer saw in the last call in a forward pass, None before it."""
    seen: list[Seen | None] = [None] * len(layers)

    def keep(place: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            before = seen[place]
            calls = 1 if before is None else before.calls + 1
            seen[place] = Seen(inputs[0].detach(), outputs, calls)

        return hook

    with ExitStack() as hooks:
        for place, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_hook(keep(place)))
        yield seen


def backward(
    features: Tensor,
    seen: Sequence[Seen | None],
    names: Sequence[str],
    directions: Tensor,
    mask: Tensor,
) -> list[LayerGradients]:
    """Return the gradients of `directions · features` for every layer, K backward passes.

    Args:
        features: [B, ...], with their graph.
        seen: What the hooks caught in the pass that gave `features`.
        names: Of the layers, for messages.
        directions: [K, B, ...]: what multiplies the features; for the gradient of vᵀWφ it is Wᵀv.
        mask: [B, T], 1 at real tokens.

    Raises:
        InputError: A layer took no part in the pass or was called more than once, or sees other
            than tokens or rows.
    """
    caught = [_found(item, name) for item, name in zip(seen, names, strict=True)]
    outputs = [item.outputs for item in caught]
    found = [
        torch.autograd.grad(features, outputs, direction, retain_graph=True, materialize_grads=True)
        for direction in directions.to(features.dtype)
    ]
    return [
        _masked(item.inputs, torch.stack(gradients), mask, name)
        for item, gradients, name in zip(caught, zip(*found, strict=True), names, strict=True)
    ]


def _found(item: Seen | None, name: str) -> Seen:
    if item is None:
        raise InputError(f"adapter layer {name} took no part in the network's forward pass")
    if item.calls > 1:
        raise InputError(
            f"adapter layer {name} is called {item.calls} times in a pass, since layers share its "
            "weights; gradients of weights row by row are for layers that are called once",
            code="shared-layers",
        )
    return item


def _masked(inputs: Tensor, gradients: Tensor, mask: Tensor, name: str) -> LayerGradients:
    """Return both as [..., B, T, ·] with zeros at padding; a layer may see one state a row."""
    real = real_tokens(f"adapter layer {name}", inputs, mask)
    # Filled, not multiplied: what padding holds need not be finite.
    a, g = (item.masked_fill(~real[..., None], 0) for item in (inputs, gradients))
    rows = len(mask)
    return LayerGradients(
        a.reshape(rows, -1, a.shape[-1]), g.reshape(len(g), rows, -1, g.shape[-1]), int(real.sum())
    )
