"""Options of layer sampling: which layers train at a step.

Layer sampling is a policy, not an adapter: it adds no parameter. Over the sites of an adapter it
freezes some of them; over the backbone's own layers it is LISA.
"""

from __future__ import annotations

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
    source: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919, for whole layers; ours for adapters"
    parameters: ClassVar[str] = "none"

    num_active: Annotated[Count, "Number of layers that train at a time."] = 2
    interval: Annotated[
        Count | None,
        "Optimiser steps between draws; None means as many as give each layer about four draws, "
        "1 to 20.",
    ] = None
    mode: Annotated[
        Literal["cycle", "fixed", "uniform", "weighted"],
        "How layers are drawn: `uniform` (as published), `cycle` (each layer once before any "
        "repeats), `weighted` (in proportion to `weights`), or `fixed` (one draw for the whole "
        "fit, as a control).",
    ] = "uniform"
    weights: Annotated[
        tuple[NotNegative, ...] | None,
        "For `weighted`: one number >= 0 per layer, lowest layer first; a layer is drawn in "
        "proportion to its number, at most in every draw.",
    ] = None
    state: Annotated[
        Literal["drop", "keep", "offload"],
        "Optimiser state of a layer that stops training: `drop` discards it, `keep` keeps it, "
        "and `offload` moves it to CPU memory.",
    ] = "drop"
    ramp: Annotated[
        int,
        Range(0),
        "Steps after each draw in which the learning rate of the drawn layers rises; 0 for none.",
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weights is None) == (self.mode == "weighted"):
            raise InputError(
                "weights must be given for mode 'weighted', one number >= 0 per layer, and for "
                f"no other mode; got mode {self.mode!r} and weights {self.weights!r}"
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
                f"weights must have one number for each of the {num_layers} layers to draw from, "
                f"got {len(self.weights)}"
            )

    def _check_active(self, num_layers: int) -> None:
        if self.num_active > num_layers:
            raise InputError(
                f"num_active must be from 1 to {num_layers}, the number of layers to draw from, "
                f"got {self.num_active}"
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
    if isinstance(value, Adapter):
        name = type(value).__name__
        raise InputError(
            f"{name} is an adapter: pass adapter={name}(...); layer_sampling must be a "
            "LayerSampling"
        )
    return options.resolve_one(LayerSampling, value)
