"""The policy of layer sampling: which groups of parameters train at a step.

    for block b = 0, 1, … of K steps:  S_b = γ layers out of N;  train  always ∪ S_b

A draw depends only on seed and block: processes agree without communication, a resumed run needs no
stored random state, and no other generator is used.

A resting parameter requires no gradient and has none: AdamW skips it and allocates its moments at
its first update. The optimiser must hold every group from the start. A zero gradient would not
suffice, since momentum and decay would continue.

Source: Pan, Liu, Diao, Pi, Zhang, Han and Zhang 2024, arXiv 2403.17919. The published draw is
uniform, without a correction by 1/p, and acts as a learning rate of γη/N.

*LISA* trains whole layers of the backbone, a few at a time.

    every K steps:  draw γ of the last N layers
    every step:     θ_l ← AdamW(θ_l) for the drawn layers l ;   the others rest

Source: Pan et al. 2024, arXiv 2403.17919.

No module is added or replaced. Trainable parameters are copies of the backbone's, which stay
unchanged for other networks on it; only those of layers that have trained are saved. Modules after
the layers (a final normalisation) train at every step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from bayeslora.adapters.base import LayerSampling
from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers


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


ALWAYS = "outside the layers"
"""Name of the group of parameters that train regardless of the drawn layers."""

# Not part of the last hidden states, and often without trained values.
_POOLER = "pooler"


class FullLayers:
    """The trainable parameters of a model by group, and their initial values.

    Attributes:
        groups: Parameters by dotted name per group; layers lowest first, then the parameters that
            always train, if any.
        changed: Names of the groups that have trained; only these are saved.
    """

    def __init__(
        self, model: nn.Module, after: Collection[str], *, start: int, train_embedding: bool
    ) -> None:
        """Replace trainable parameters of `model` by copies in float32, and freeze the rest.

        Args:
            model: Changed in place; tensors shared with other models are not changed.
            after: Names of the modules that run after the layers.
            start: Index of the lowest trainable layer.
            train_embedding: Whether the embedding trains at every step.

        Raises:
            InputError: The layers cannot be identified.
        """
        path, layers = find_layers(model)
        prefixes = {f"{path}.{number}": f"{path}.{number}." for number in range(start, len(layers))}
        _in_float32(model)
        model.requires_grad_(False)
        members: dict[str, list[str]] = {name: [] for name in (*prefixes, ALWAYS)}
        for name, _ in model.named_parameters():
            group_name = next(
                (group for group, prefix in prefixes.items() if name.startswith(prefix)), None
            )
            if group_name is None and _is_always(name, path, after, train_embedding):
                group_name = ALWAYS
            if group_name is not None:
                members[group_name].append(name)
        origin = dict(model.named_parameters())
        copies = _own_copies(model, [name for items in members.values() for name in items])
        self._origin = {name: origin[name].detach() for name in copies}
        self.groups = {
            group: {name: copies[name] for name in items}
            for group, items in members.items()
            if items
        }
        self.changed: set[str] = set()

    def mark(self, names: Iterable[str]) -> None:
        """Mark every group as changed that contains one of these parameters."""
        marked = set(names)
        self.changed |= {group for group, items in self.groups.items() if marked & items.keys()}

    def tensors(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the groups that have trained, by name."""
        return {
            name: value
            for group, items in self.groups.items()
            if group in self.changed
            for name, value in items.items()
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load `tensors`, and reset groups without tensors to their initial values.

        Raises:
            InputError: A name is unknown, or a group is incomplete.
        """
        previous, self.changed = self.changed, set()
        self.mark(tensors)
        expected = self.tensors()
        mismatched = sorted(expected.keys() ^ tensors.keys())
        if mismatched:
            self.changed = previous
            problem = "is missing" if mismatched[0] in expected else "belongs to no trainable layer"
            raise InputError(f"trained tensor {mismatched[0]!r} {problem}")
        for items in self.groups.values():
            for name, value in items.items():
                value.copy_(tensors.get(name, self._origin[name]))

    def changes(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (name, change, initial value) of every trained weight, in float64."""
        for name, value in self.tensors().items():
            start = self._origin[name].to(value.device, torch.float64)
            yield name, value.detach().double() - start, start

    def summary(self) -> dict[str, float]:
        """Return the statistics that a fit records.

        Returns:
            `num_layers` and `num_parameters` that have trained; `delta_norm`, the Frobenius norm of
            all changes together.
        """
        squared = sum(float(change.norm().square()) for _, change, _ in self.changes())
        return {
            "num_layers": float(len(self.changed - {ALWAYS})),
            "num_parameters": float(sum(value.numel() for value in self.tensors().values())),
            "delta_norm": squared**0.5,
        }

    def optimizer(self, lr: float, weight_decay: float = 0.0) -> AdamW:
        """Return AdamW on all trainable parameters.

        It holds all layers from the start, in up to four groups: schedulers ignore later groups,
        and a layer added after a rest would never train. Matrices decay, biases and normalisations
        do not.
        """
        layers = [
            item
            for group, items in self.groups.items()
            if group != ALWAYS
            for item in items.values()
        ]
        always = [*self.groups.get(ALWAYS, {}).values()]
        groups = [
            {"params": chosen, "name": name, "weight_decay": decay}
            for name, items in (("adapter", layers), ("outside", always))
            for decay, matrices in ((weight_decay, True), (0.0, False))
            if (chosen := [item for item in items if (item.ndim > 1) == matrices])
        ]
        return AdamW(groups, lr=lr)


def _is_always(name: str, path: str, after: Collection[str], embedding: bool) -> bool:
    """Return whether a parameter outside the trainable layers trains at every step."""
    if name.startswith(f"{path}.") or _POOLER in name:
        return False
    return embedding or name.rpartition(".")[0] in after


def _in_float32(model: nn.Module) -> None:
    """Replace the tensors of a model in another precision by frozen float32 copies.

    In bfloat16, updates of the usual size would round to zero.
    """
    memo: dict[int, nn.Parameter] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            memo[id(parameter)] = nn.Parameter(parameter.detach().float(), requires_grad=False)
    _put(model, memo)
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.dtype != torch.float32:
                setattr(module, key, buffer.float())


def _own_copies(model: nn.Module, names: Collection[str]) -> dict[str, nn.Parameter]:
    """Replace some parameters by trainable copies, and return the copies."""
    parameters = dict(model.named_parameters())
    copies = {name: nn.Parameter(parameters[name].detach().clone()) for name in names}
    _put(model, {id(parameters[name]): copy for name, copy in copies.items()})
    return copies


def _put(model: nn.Module, memo: Mapping[int, nn.Parameter]) -> None:
    """Replace parameters by id, wherever modules share them."""
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in memo:
                setattr(module, key, memo[id(parameter)])
