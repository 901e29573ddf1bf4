"""The policy of layer sampling: which groups of parameters train at a step.

    for block b = 0, 1, … of K steps:  S_b = γ layers out of N;  train  always ∪ S_b

A draw depends only on seed and block: processes agree without communication, a resumed run needs no
stored random state, and no other generator is used.

A resting parameter requires no gradient and has none: AdamW skips it and allocates its moments at
its first update. The optimiser must hold every group from the start. A zero gradient would not
suffice, since momentum and decay would continue.

Source: Pan, Liu, Diao, Pi, Zhang, Han and Zhang 2024, arXiv 2403.17919. The published draw is
uniform, without a correction by 1/p, and acts as a learning rate of γη/N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora.adapters.layer_sampling.options import LayerSampling


@dataclass(frozen=True)
class Group:
    """Parameters that train or rest together.

    Attributes:
        name: Name such as `layers.4`.
        params: The parameters.
        always: Whether they train at every step.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    always: bool = False

    @property
    def num_bytes(self) -> int:
        """Size of the parameters in bytes."""
        return sum(item.numel() * item.element_size() for item in self.params)


class LayerSampler:
    """The sampling policy over a list of groups.

    Args:
        options: Number of active layers, mode and state of the draws.
        groups: The groups, lowest layer first. All of them train until the first step.
        interval: K, steps between draws.
        seed: Seed of the draws.

    Raises:
        InputError: `options` do not fit the number of layers.
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
        """The groups to draw from."""
        return self._layers

    def draw(self, block: int) -> tuple[int, ...]:
        """Return the indices of the γ active layers of a block, ascending."""
        return draw(self.options, len(self._layers), self.seed, block)

    def names(self, block: int) -> tuple[str, ...]:
        """Return the names of the active layers of a block."""
        return tuple(self._layers[number].name for number in self.draw(block))

    def before_step(self, step: int, optimizer: Any) -> tuple[str, ...] | None:
        """Activate the layers of the step's block and freeze the others.

        Call it once per optimiser step, before the first backward pass.

        Args:
            step: Optimiser steps taken so far; the first call may be inside a block.
            optimizer: Optimiser of all groups.

        Returns:
            Names of the newly active layers, or None inside a block.
        """
        if step % self.interval and self._active is not None:
            return None
        block = step // self.interval
        new = self.draw(block)
        previous = range(len(self._layers)) if self._active is None else self._active
        if self._active is None:
            self._flags = [(p, p.requires_grad) for group in self.groups for p in group.params]
        for number in previous:
            if number not in new:
                self._rest(self._layers[number], optimizer)
        for group in (*(self._layers[number] for number in new), *self._always):
            self._wake(group, optimizer)
        self._active = new
        return self.names(block)

    def lr_factor(self, step: int) -> float:
        """Return the factor of the layers' learning rate at a step, at most 1."""
        ramp = self.options.ramp
        return min(1.0, (step % self.interval + 1) / ramp) if ramp else 1.0

    def finish(self) -> None:
        """Restore `requires_grad` of all parameters to its value before the first step."""
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        self._flags = []
        self._active = None

    def record(self, num_steps: int) -> dict[str, Any]:
        """Return the draws of `num_steps` steps, and the peak memory of gradients and moments.

        Returns:
            `interval`; `layers`, their names; `blocks`, the indices of the active layers per block;
            `draws`, the number of active blocks per layer; `training_bytes`, with two moments per
            parameter.
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
        stored: set[int] = set()
        peak = 0
        for block in blocks:
            stored = stored | {*block} if self.options.state == "keep" else {*block}
            moments = 2 * sum(sizes[number] for number in stored)
            peak = max(peak, moments + sum(sizes[number] for number in block))
        return peak + 3 * sum(group.num_bytes for group in self._always)

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
    """Return the indices of the active layers of a block, ascending.

    Args:
        options: `num_active`, `mode` and `weights`.
        num_layers: N.
        seed: Seed of the draws.
        block: Index of the block, from 0.
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
    """Return the inclusion probability of each layer in `count` weighted draws, [N], sum `count`.

    They are `count · w / Σw` if none exceeds 1. Layers that would exceed 1 are always drawn, and
    the remaining draws are distributed over the others in the same way.
    """
    weight = np.asarray(weights, dtype=np.float64)
    shares = np.zeros(len(weight))
    certain = np.zeros(len(weight), dtype=bool)
    while True:
        candidates = ~certain & (weight > 0)
        remaining = count - int(certain.sum())
        if remaining == 0:
            return np.where(certain, 1.0, 0.0)
        # Scaled first: the sum of numbers near the largest float would overflow.
        scaled = weight[candidates] / weight[candidates].max()
        probabilities = remaining * scaled / scaled.sum()
        if not (probabilities >= 1).any():
            shares[candidates] = probabilities
            return np.where(certain, 1.0, shares)
        certain[np.flatnonzero(candidates)[probabilities >= 1]] = True


def _systematic(shares: np.ndarray, generator: np.random.Generator) -> tuple[int, ...]:
    """Return a systematic sample, in which each layer has exactly the probability of its share.

    Layers in random order cover intervals of their share's length; those at u, u + 1, … are drawn.
    (Sequential draws without replacement would favour unlikely layers.)
    """
    chosen = [int(number) for number in np.flatnonzero(shares >= 1)]
    uncertain = generator.permutation(np.flatnonzero((shares > 0) & (shares < 1)))
    if len(uncertain):
        ends = np.cumsum(shares[uncertain])
        count = round(float(ends[-1]))
        ends[-1] = count
        picks = np.searchsorted(ends, generator.random() + np.arange(count), side="right")
        chosen += [int(number) for number in uncertain[picks]]
    return tuple(sorted(chosen))


def _in_turn(num_layers: int, count: int, seed: int, block: int) -> tuple[int, ...]:
    """Return the next layers in this round's order; a short last block is filled from its head."""
    blocks = -(-num_layers // count)
    order = np.random.default_rng([seed, block // blocks]).permutation(num_layers)
    first = (block % blocks) * count
    chosen = order[np.arange(first, first + count) % num_layers]
    return tuple(sorted(int(number) for number in chosen))


def _move(optimizer: Any, parameter: nn.Parameter, device: torch.device) -> None:
    """Move a parameter's moments to a device; step counts stay in place."""
    state = optimizer.state.get(parameter)
    for key, value in (state or {}).items():
        if isinstance(value, Tensor) and value.ndim:
            state[key] = value.to(device)
