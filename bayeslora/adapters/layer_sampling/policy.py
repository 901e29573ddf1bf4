"""The policy of layer sampling: which groups of parameters move, and what becomes of the others.

    for block b = 0, 1, … of K steps:  S_b = γ layers out of N;  train  always ∪ S_b

A draw is a function of seed and block alone: processes agree without a word, a resumed run needs no
stored random state, and nobody else's generator is touched.

A parameter rests where it requires no gradient and has none: AdamW skips it, and allocates moments
when it first moves. The optimiser has to hold every group from the start. A zero in a gradient's
place would not do: momentum and decay would go on.

Source: Pan, Liu, Diao, Pi, Zhang, Han and Zhang 2024, arXiv 2403.17919. The published draw is
uniform, without a correction by 1/p: it acts as a learning rate of γη/N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.adapters.layer_sampling.options import LayerSampling
from bayeslora.errors import InputError


@dataclass(frozen=True)
class Group:
    """Parameters that train or rest together.

    Attributes:
        name: Such as `layers.4`.
        params: The parameters.
        always: Whether they never rest.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    always: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of the parameters."""
        return sum(item.numel() * item.element_size() for item in self.params)


class LayerSampler:
    """The policy over one list of groups, whose names it is given.

    Args:
        options: How many, how often, how drawn.
        groups: The groups, lowest layer first. All of them train until the first step.
        interval: K, steps between draws.
        seed: Of the draws.

    Raises:
        InputError: `options` do not fit so many layers.
    """

    def __init__(
        self, options: LayerSampling, groups: Sequence[Group], interval: int, seed: int
    ) -> None:
        self.options = options
        self.interval = interval
        self.seed = seed
        self.groups = tuple(groups)
        self._layers = tuple(group for group in groups if not group.always)
        options.check_layers(len(self._layers))
        self._active: tuple[int, ...] | None = None
        self._flags: list[tuple[nn.Parameter, bool]] = []

    @property
    def layers(self) -> tuple[Group, ...]:
        """The groups that are drawn from."""
        return self._layers

    def draw(self, block: int) -> tuple[int, ...]:
        """Return the numbers of the γ layers of a block, ascending."""
        return draw(self.options, len(self._layers), self.seed, block)

    def names(self, block: int) -> tuple[str, ...]:
        """Return the names of the layers of a block."""
        return tuple(self._layers[number].name for number in self.draw(block))

    def before_step(self, step: int, optimizer: Any) -> tuple[str, ...] | None:
        """Make the layers of the step's block train and the others rest.

        To be called once an optimiser step, before its first backward pass.

        Args:
            step: Optimiser steps taken so far; the first call may be inside a block.
            optimizer: Holds all groups.

        Returns:
            Names of the layers that train from now on, or None inside a block.
        """
        if step % self.interval and self._active is not None:
            return None
        block = step // self.interval
        new = self.draw(block)
        before = range(len(self._layers)) if self._active is None else self._active
        if self._active is None:
            self._flags = [(p, p.requires_grad) for group in self.groups for p in group.params]
        for number in before:
            if number not in new:
                self._rest(self._layers[number], optimizer)
        for group in (*(self._layers[number] for number in new), *self._always):
            self._wake(group, optimizer)
        self._active = new
        return self.names(block)

    def lr_factor(self, step: int) -> float:
        """Return what the learning rate of the layers is multiplied by at a step, up to 1."""
        ramp = self.options.ramp
        return min(1.0, (step % self.interval + 1) / ramp) if ramp else 1.0

    def finish(self) -> None:
        """Restore which parameters require a gradient, as before the first call."""
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        self._flags = []
        self._active = None

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return what a run resumed after `step` steps has to agree with, JSON-ready."""
        last = (step - 1) // self.interval
        return {
            "seed": self.seed,
            "interval": self.interval,
            "step": step,
            "active": list(self.names(last)) if step else [],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise InputError if a stored state is of other layers or another order of them.

        Raises:
            InputError: It is.
        """
        own = self.state_dict(int(state["step"]))
        for key in ("interval", "seed", "active"):
            if own[key] != state[key]:
                raise InputError(
                    f"the interrupted training drew its layers with {key} {state[key]!r}, this one "
                    f"has {own[key]!r}; resume it as it was begun"
                )

    def record(self, num_steps: int) -> dict[str, Any]:
        """Return what `num_steps` steps drew, and what gradients and moments took at most.

        Returns:
            `interval`; `layers`, their names; `blocks`, the numbers of the active ones in each
            block; `draws`, blocks that each layer was active in; `training_bytes`, with two moments
            a parameter.
        """
        blocks = [list(self.draw(block)) for block in range(-(-num_steps // self.interval))]
        counts = [sum(number in block for block in blocks) for number in range(len(self._layers))]
        return {
            "interval": self.interval,
            "layers": [layer.name for layer in self._layers],
            "blocks": blocks,
            "draws": counts,
            "training_bytes": self._bytes(blocks),
        }

    @property
    def _always(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.always)

    def _bytes(self, blocks: list[list[int]]) -> int:
        sizes = [layer.num_bytes for layer in self._layers]
        known: set[int] = set()
        most = 0
        for block in blocks:
            known = known | {*block} if self.options.state == "keep" else {*block}
            moments = 2 * sum(sizes[number] for number in known)
            most = max(most, moments + sum(sizes[number] for number in block))
        return most + 3 * sum(group.num_bytes for group in self._always)

    def _rest(self, group: Group, optimizer: Any) -> None:
        for parameter in group.params:
            parameter.requires_grad_(False)
            parameter.grad = None
            if self.options.state == "drop":
                optimizer.state.pop(parameter, None)
            elif self.options.state == "offload":
                _move(optimizer, parameter, torch.device("cpu"))

    def _wake(self, group: Group, optimizer: Any) -> None:
        for parameter in group.params:
            parameter.requires_grad_(True)
            if self.options.state == "offload":
                _move(optimizer, parameter, parameter.device)


def draw(options: LayerSampling, num_layers: int, seed: int, block: int) -> tuple[int, ...]:
    """Return the numbers of the layers that train in a block, ascending.

    Args:
        options: `num_active`, `mode` and `weights`.
        num_layers: N.
        seed: Of the draws.
        block: From 0.
    """
    count = options.num_active
    if options.mode == "cycle":
        return _in_turn(num_layers, count, seed, block)
    generator = np.random.default_rng([seed, 0 if options.mode == "fixed" else block])
    if options.mode == "weighted":
        shares = inclusion(options.weights or (), count)
        return _systematic(shares, generator)
    chosen = generator.choice(num_layers, count, replace=False)
    return tuple(sorted(int(number) for number in chosen))


def inclusion(weights: Sequence[float], count: int) -> np.ndarray:
    """Return the probability of each layer to be among `count` drawn by weight, [N], sum `count`.

    They are `count · w / Σw`, where none of these exceeds 1. Layers that would are always drawn,
    and the rest of the draws is shared by the others in the same way.
    """
    weight = np.asarray(weights, dtype=np.float64)
    shares = np.zeros(len(weight))
    certain = np.zeros(len(weight), dtype=bool)
    while True:
        rest = ~certain & (weight > 0)
        left = count - int(certain.sum())
        if left == 0:
            return np.where(certain, 1.0, 0.0)
        # Scaled first: the sum of numbers near the largest float would overflow.
        scaled = weight[rest] / weight[rest].max()
        found = left * scaled / scaled.sum()
        if not (found >= 1).any():
            shares[rest] = found
            return np.where(certain, 1.0, shares)
        certain[np.flatnonzero(rest)[found >= 1]] = True


def _systematic(shares: np.ndarray, generator: np.random.Generator) -> tuple[int, ...]:
    """Return a draw in which each layer has exactly the probability of its share.

    Layers in random order cover stretches of their share's length; those at u, u + 1, … are taken.
    (Drawing one after another without replacement would favour the unlikely ones.)
    """
    chosen = [int(number) for number in np.flatnonzero(shares >= 1)]
    open_ones = generator.permutation(np.flatnonzero((shares > 0) & (shares < 1)))
    if len(open_ones):
        ends = np.cumsum(shares[open_ones])
        count = round(float(ends[-1]))
        ends[-1] = count
        places = np.searchsorted(ends, generator.random() + np.arange(count), side="right")
        chosen += [int(number) for number in open_ones[places]]
    return tuple(sorted(chosen))


def _in_turn(num_layers: int, count: int, seed: int, block: int) -> tuple[int, ...]:
    """Return a stretch of this round's order; a short last one is filled up from its head."""
    blocks = -(-num_layers // count)
    order = np.random.default_rng([seed, block // blocks]).permutation(num_layers)
    first = (block % blocks) * count
    chosen = order[np.arange(first, first + count) % num_layers]
    return tuple(sorted(int(number) for number in chosen))


def _move(optimizer: Any, parameter: nn.Parameter, device: torch.device) -> None:
    """Move a parameter's moments; counts of steps stay where the optimiser put them."""
    state = optimizer.state.get(parameter)
    for key, value in (state or {}).items():
        if isinstance(value, Tensor) and value.ndim:
            state[key] = value.to(device)
