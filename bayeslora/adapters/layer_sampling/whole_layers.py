"""Full training of backbone layers instead of adapters on them.

No module is added or replaced. Trainable parameters are copies of the backbone's, which stay
unchanged for other networks on it; only those of layers that have trained are saved. Modules after
the layers (a final normalisation) train at every step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers

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
