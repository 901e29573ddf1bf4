"""Options of layer sampling: which layers train at a step.

Layer sampling is a policy, not an adapter: it adds no parameter. Over the sites of an adapter it
freezes some of them; over the backbone's own layers it is LISA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from bayeslora import options
from bayeslora.adapters.base import Adapter
from bayeslora.errors import InputError
from bayeslora.option_checks import Count, NotNegative, Options, Range

_LONGEST_INTERVAL = 20
_DRAWS_A_LAYER = 4


@dataclass(frozen=True)
class LayerSampling(Options):
    """Train a few layers at a time; they are drawn anew every `interval` steps."""

    name: ClassVar[str] = "layer_sampling"
    summary: ClassVar[str] = "train the adapters of a few randomly drawn layers at a time"
    source: ClassVar[str] = (
        "Pan et al. 2024, arXiv 2403.17919, for whole layers; over adapters ours"
    )
    parameters: ClassVar[str] = "none"

    num_active: Annotated[Count, "Layers that train at a time."] = 2
    interval: Annotated[
        Count | None,
        "Optimiser steps between draws; None takes as many as give each layer about four draws, 1 "
        "to 20.",
    ] = None
    mode: Annotated[
        Literal["cycle", "fixed", "uniform", "weighted"],
        "How layers are drawn: `uniform` (as published), `cycle` (each layer once before any "
        "comes again), `weighted` (more often by `weights`), or `fixed` (one draw for the whole "
        "fit, a control).",
    ] = "uniform"
    weights: Annotated[
        tuple[NotNegative, ...] | None,
        "For `weighted`: one number >= 0 a layer, lowest layer first; a layer's share of the "
        "draws is in proportion, up to all of them.",
    ] = None
    state: Annotated[
        Literal["drop", "keep", "offload"],
        "`drop` forgets the optimiser's moments of a layer that comes to rest, `keep` keeps them, "
        "and `offload` keeps them in the CPU's memory.",
    ] = "drop"
    ramp: Annotated[
        int,
        Range(0),
        "Steps in which the learning rate of the layers rises after each draw; 0 for none.",
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weights is None) == (self.mode == "weighted"):
            raise InputError(
                "mode 'weighted' needs weights, one number >= 0 for each layer, and no other mode "
                f"takes them, got mode {self.mode!r} and weights {self.weights!r}"
            )
        if self.weights is not None and sum(map(bool, self.weights)) < self.num_active:
            raise InputError(
                f"at least num_active = {self.num_active} of the weights must be > 0, got "
                f"{list(self.weights)}"
            )

    def check_layers(self, num_layers: int) -> None:
        """Raise InputError if the options do not fit `num_layers` layers.

        Raises:
            InputError: `num_active` exceeds `num_layers`, or `weights` has another length.
        """
        self._check_active(num_layers)
        if self.weights is not None and len(self.weights) != num_layers:
            raise InputError(
                f"weights must be {num_layers} numbers, one for each layer to draw from, got "
                f"{len(self.weights)}"
            )

    def _check_active(self, num_layers: int) -> None:
        if self.num_active > num_layers:
            raise InputError(
                f"num_active must be from 1 to {num_layers}, the layers to draw from, got "
                f"{self.num_active}"
            )

    def interval_of(self, num_steps: int, num_layers: int) -> int:
        """Return the steps between draws in a fit of `num_steps` over `num_layers` layers."""
        if self.interval is not None:
            return self.interval
        interval = num_steps * self.num_active // (_DRAWS_A_LAYER * num_layers)
        return max(1, min(_LONGEST_INTERVAL, interval))


def resolve_sampling(value: Any) -> LayerSampling | None:
    """Return the options given as an object, a mapping or text such as `num_active=2`.

    Raises:
        InputError: An option or its value is invalid.
    """
    if value is None:
        return None
    name = LayerSampling.name
    if isinstance(value, str):
        value = f"{name}:{value.removeprefix(name).removeprefix(':')}"
    elif isinstance(value, Mapping):
        value = {"name": name, **value}
    if isinstance(value, Adapter):
        name = type(value).__name__
        raise InputError(
            f"{name} is an adapter (adapter={name}(...)); layer_sampling is LayerSampling"
        )
    sampling: LayerSampling = options.resolve(name, value, {name: LayerSampling})
    return sampling
