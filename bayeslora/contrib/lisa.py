"""LISA: whole layers of the backbone train, a few at a time.

    every K steps:  draw γ of the last N layers
    every step:     θ_l ← AdamW(θ_l) for the drawn layers l ;   the others rest

Source: Pan, Liu, Diao, Pi, Zhang, Han and Zhang 2024, arXiv 2403.17919. The published draw is
uniform, without a correction by 1/p, and acts as a learning rate of γη/N.

No module is added or replaced. Trainable parameters are copies of the backbone's, which stay
unchanged for other networks on it; only those of layers that have trained are saved. Modules after
the layers (a final normalisation) train at every step.

A draw depends only on seed and block of K steps: processes agree without communication, a resumed
run needs no stored random state, and no other generator is used. A resting parameter requires no
gradient and has none: AdamW skips it and allocates its moments at its first update. The optimiser
must hold every group from the start. A zero gradient would not suffice, since momentum and decay
would continue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bayeslora.adapters.base import Adapter, StepHook
from bayeslora.adapters.low_rank import spectrum_of
from bayeslora.adapters.site import Companion, SiteSpectrum
from bayeslora.backbones.encoder import Encoder
from bayeslora.engine.network import Network
from bayeslora.engine.training import Training
from bayeslora.errors import InputError
from bayeslora.foreign import find_layers
from bayeslora.option_checks import Count, NotNegative, Positive

_LONGEST_INTERVAL = 20
_DRAWS_A_LAYER = 4


@dataclass(frozen=True)
class LISA(Adapter):
    """Layer sampling over the backbone's own layers: a few whole layers train at a time.

        every K steps:  draw γ of the last N layers
        every step:     θ_l ← AdamW(θ_l) for the drawn layers l ;   the others rest

    K is `interval`, γ is `num_active`, and N is `num_layers`.
    """

    name: ClassVar[str] = "lisa"
    has_sites: ClassVar[bool] = False
    summary: ClassVar[str] = "whole layers of the backbone train, a few at a time"
    use: ClassVar[str] = "Full-rank training of whole layers, with the memory of a few of them."
    source: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    default_lr: ClassVar[float] = 3e-4

    num_active: Count = 2
    """Number of layers that train at a time."""
    interval: Count | None = None
    """Optimiser steps between draws; None means as many as give each layer about four draws, 1 to
    20."""
    mode: Literal["cycle", "fixed", "uniform"] = "uniform"
    """How layers are drawn: `uniform` (as published), `cycle` (each layer once before any repeats),
    or `fixed` (one draw for the whole fit, as a control)."""
    num_layers: Count | None = 6
    """Number of last transformer layers to draw from; None means all. The layers below run once per
    text."""
    train_embedding: bool = False
    """Whether the embedding trains at every step, as published. It has most parameters of a small
    model, and no layer's outputs can be cached while it trains."""
    lr: Positive | None = None
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of matrices towards zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers is not None:
            self._check_active(self.num_layers)

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

    def first_layer(
        self, model: nn.Module, names: Sequence[str], *, is_cut: bool
    ) -> tuple[str, int]:
        """Return the list of layers and the lowest trainable one; 0 if the embedding trains."""
        path, layers = find_layers(model)
        return path, 0 if self.train_embedding else self.lowest(len(layers))

    def lowest(self, num_layers: int) -> int:
        """Return the index of the lowest trainable layer."""
        return 0 if self.num_layers is None else max(0, num_layers - self.num_layers)

    def companion(self, network: Network, rows: Any = None) -> FullLayers:
        """Return the upper layers, with copies of their parameters.

        Raises:
            InputError: The layers cannot be identified, or are fewer than `num_active`.
        """
        encoder = cast("Encoder", network.encoder)
        path, layers = find_layers(encoder.model)
        num_layers = len(layers) - self.lowest(len(layers))
        self._check_active(num_layers)
        called, last = [*encoder.count_calls()], f"{path}.{len(layers) - 1}"
        after = [
            name for name in called[called.index(last) + 1 :] if not name.startswith(f"{last}.")
        ]
        return FullLayers(encoder.model, after, self)

    def hooks(self, fit: Training) -> Sequence[StepHook]:
        """Return the hook that draws the layers."""
        full = cast("FullLayers", fit.network.companion)
        return [LayerSampler(self, full, fit.num_steps, fit.plan.seed)]


class LayerSampler(StepHook):
    """Draws the layers that train, and lets the others rest.

    Args:
        options: Number of active layers and mode of the draws.
        full: The layers; all of them train until the first step.
        num_steps: Steps of the fit.
        seed: Seed of the draws.
    """

    def __init__(self, options: LISA, full: FullLayers, num_steps: int, seed: int) -> None:
        self.options = options
        self.full = full
        self.seed = seed
        self.layers = [name for name in full.groups if name != ALWAYS]
        self.interval = options.interval_of(num_steps, len(self.layers))
        self._active: tuple[int, ...] | None = None
        self._flags: list[tuple[nn.Parameter, bool]] = []

    def draw(self, block: int) -> tuple[int, ...]:
        """Return the indices of the γ active layers of a block, ascending."""
        return draw(self.options, len(self.layers), self.seed, block)

    def before_step(self, step: int, num_steps: int, optimizer: Optimizer) -> None:
        """Let the layers of the step's block train.

        The first call may be inside a block.
        """
        if step % self.interval and self._active is not None:
            return
        new = self.draw(step // self.interval)
        previous = range(len(self.layers)) if self._active is None else self._active
        if self._active is None:
            self._flags = [
                (item, item.requires_grad)
                for items in self.full.groups.values()
                for item in items.values()
            ]
        for number in previous:
            if number not in new:
                self._rest(self.layers[number], optimizer)
        names = {*(self.layers[number] for number in new), ALWAYS} & self.full.groups.keys()
        for name in names:
            for parameter in self.full.groups[name].values():
                parameter.requires_grad_(True)
        self.full.changed |= names
        self._active = new

    def finish(self) -> None:
        """Restore `requires_grad` of all parameters to its value before the first step."""
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        self._flags = []
        self._active = None

    def record(self, num_steps: int) -> dict[str, Any]:
        """Return the draws of `num_steps` steps.

        Returns:
            Under `layer_sampling`: `interval`; `layers`, their names; `blocks`, the indices of the
            active layers per block.
        """
        blocks = [list(self.draw(block)) for block in range(-(-num_steps // self.interval))]
        return {
            "layer_sampling": {"interval": self.interval, "layers": self.layers, "blocks": blocks}
        }

    def _rest(self, name: str, optimizer: Any) -> None:
        for parameter in self.full.groups[name].values():
            parameter.requires_grad_(False)
            parameter.grad = None
            optimizer.state.pop(parameter, None)


def draw(options: LISA, num_layers: int, seed: int, block: int) -> tuple[int, ...]:
    """Return the indices of the active layers of a block, ascending.

    Args:
        options: `num_active` and `mode`.
        num_layers: N.
        seed: Seed of the draws.
        block: Index of the block, from 0.
    """
    count = options.num_active
    if options.mode == "cycle":
        return _in_turn(num_layers, count, seed, block)
    generator = np.random.default_rng([seed, 0 if options.mode == "fixed" else block])
    chosen = generator.choice(num_layers, count, replace=False)
    return tuple(sorted(int(number) for number in chosen))


def _in_turn(num_layers: int, count: int, seed: int, block: int) -> tuple[int, ...]:
    """Return the next layers in this round's order; a short last block is filled from its head."""
    blocks = -(-num_layers // count)
    order = np.random.default_rng([seed, block // blocks]).permutation(num_layers)
    first = (block % blocks) * count
    chosen = order[np.arange(first, first + count) % num_layers]
    return tuple(sorted(int(number) for number in chosen))


ALWAYS = "outside the layers"
"""Name of the group of parameters that train regardless of the drawn layers."""

# Not part of the last hidden states, and often without trained values.
_POOLER = "pooler"


class FullLayers(Companion):
    """The trainable parameters of a model by group, and their initial values.

    Attributes:
        groups: Parameters by dotted name per group; layers lowest first, then the parameters that
            always train, if any.
        changed: Names of the groups that have trained; only these are saved.
    """

    def __init__(self, model: nn.Module, after: Collection[str], options: LISA) -> None:
        """Replace trainable parameters of `model` by copies in float32, and freeze the rest.

        Args:
            model: Changed in place; tensors shared with other models are not changed.
            after: Names of the modules that run after the layers.
            options: Layers to draw from, whether the embedding trains, and the learning rate.

        Raises:
            InputError: The layers cannot be identified.
        """
        super().__init__()
        self._options = options
        path, layers = find_layers(model)
        numbers = range(options.lowest(len(layers)), len(layers))
        prefixes = {f"{path}.{number}": f"{path}.{number}." for number in numbers}
        _in_float32(model)
        model.requires_grad_(False)
        members: dict[str, list[str]] = {name: [] for name in (*prefixes, ALWAYS)}
        for name, _ in model.named_parameters():
            group = next((group for group, start in prefixes.items() if name.startswith(start)), "")
            is_outside = not name.startswith(f"{path}.") and _POOLER not in name
            if group:
                members[group].append(name)
            elif is_outside and (options.train_embedding or name.rpartition(".")[0] in after):
                members[ALWAYS].append(name)
        origin = dict(model.named_parameters())
        names = [name for items in members.values() for name in items]
        copies = {name: nn.Parameter(origin[name].detach().clone()) for name in names}
        _put(model, {id(origin[name]): copy for name, copy in copies.items()})
        self._origin = {name: origin[name].detach() for name in copies}
        self.groups = {
            group: {name: copies[name] for name in items}
            for group, items in members.items()
            if items
        }
        self.changed: set[str] = set()

    def resize(self, stored: Mapping[str, Tensor]) -> None:
        """Mark exactly the groups as changed that have stored tensors."""
        self.changed = {
            group for group, items in self.groups.items() if stored.keys() & items.keys()
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters of the groups that have trained, by name."""
        return {
            name: value
            for group, items in self.groups.items()
            if group in self.changed
            for name, value in items.items()
        }

    @torch.no_grad()
    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Load the groups that have trained, and reset the others to their initial values.

        Raises:
            InputError: A group is incomplete.
        """
        if missing := self.tensors().keys() - stored.keys():
            raise InputError(f"trained tensor {min(missing)!r} is missing")
        for items in self.groups.values():
            for name, value in items.items():
                value.copy_(stored.get(name, self._origin[name]))

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

    def spectra(self) -> list[SiteSpectrum]:
        """Return the statistics of every matrix that has trained; all singular values are found."""
        return [
            spectrum_of(name.removesuffix(".weight"), torch.linalg.svdvals(change), start)
            for name, change, start in self.changes()
            if change.ndim == 2
        ]

    def optimizers(self) -> Sequence[Optimizer]:
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
            for decay, matrices in ((self._options.weight_decay, True), (0.0, False))
            if (chosen := [item for item in items if (item.ndim > 1) == matrices])
        ]
        return [AdamW(groups, lr=self._options.learning_rate)]


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


def _put(model: nn.Module, memo: Mapping[int, nn.Parameter]) -> None:
    """Replace parameters by id, wherever modules share them."""
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in memo:
                setattr(module, key, memo[id(parameter)])
