"""The states in the middle of a backbone, taken while it runs.

The upper layers of an encoder keep what separates the training classes, and may map an unusual text
onto a usual one; the middle layers usually still separate the two. In a decoder all layers do about
as well (`benchmarks/layer_distances`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers


@dataclass(frozen=True)
class MiddleLayer:
    """A layer whose input states are taken while the model runs.

    Attributes:
        layer: The layer.
        number: Its index.
    """

    layer: nn.Module
    number: int

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Yield a list that receives the layer's input [B, T, d] at each of its calls."""
        states: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            states.append(args[0] if args else named["hidden_states"])

        hook = self.layer.register_forward_pre_hook(take, with_kwargs=True)
        try:
            yield states
        finally:
            hook.remove()

    @torch.no_grad()
    def reads_tokens(self, run: Callable[[], Tensor]) -> bool:
        """Return whether the layer's input is one state per token, [B, T, d].

        Args:
            run: Runs the model on texts of unequal length and returns their attention mask [B, T].
        """
        with self.watched() as states:
            mask = run()
        return len(states) == 1 and states[0].ndim == 3 and states[0].shape[:2] == mask.shape


def middle_layer(model: nn.Module) -> MiddleLayer | None:
    """Return the layer at half of a model's depth; None if the model has no list of layers."""
    try:
        _, layers = find_layers(model)
    except InputError:
        return None
    number = len(layers) // 2
    return MiddleLayer(layers[number], number)


def mean_state(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean [B, d] float32 of the states [B, T, d] at positions whose mask is 1."""
    states = states.float()
    weights = attention_mask.to(states.device).unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)
