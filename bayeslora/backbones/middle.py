"""The states in the middle of a backbone, taken while it runs.

Upper layers keep what tells the training classes apart, and map an unusual text onto a usual one;
middle layers still tell the two apart (`benchmarks/layer_distances`).
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
    """A layer whose input states are taken while the model runs."""

    layer: nn.Module

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


def middle_layer(model: nn.Module, first_running: int = 0) -> MiddleLayer | None:
    """Return the layer at half of a model's depth, or the first that runs if that is higher.

    Args:
        model: The model.
        first_running: Index of the first layer that runs for every text.

    Returns:
        The layer; None if the model has no list of layers.
    """
    try:
        _, layers = find_layers(model)
    except InputError:
        return None
    return MiddleLayer(layers[max(first_running, len(layers) // 2)])
