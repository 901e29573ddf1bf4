"""Layers of a backbone whose own weights are trained, in place of adapters on them.

No module is added or replaced. The parameters that may train become copies of the backbone's,
which stay as they are for other networks on it; what is saved are those of the layers that ever
trained. What runs after the layers (a final normalisation) trains with any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from bayeslora.adapters.optimizers import AlternatingOptimizer
from bayeslora.errors import InputError
from bayeslora.layer_list import find_layers

ALWAYS = "outside the layers"
"""Name of the group of everything that trains whatever layers are drawn."""

# No part of the last hidden states, and often without trained values.
_POOLER = "pooler"


class FullLayers:
    """The parameters of a model that may train, by group, beside the values that they started from.

    Attributes:
        groups: Of each group the parameters by their dotted names; layers lowest first, then what
            trains always, where there is such a thing.
        changed: Names of the groups that have trained; only they are saved.
    """

    def __init__(
        self, model: nn.Module, after: Collection[str], *, start: int, train_embedding: bool
    ) -> None:
        """Give `model` parameters of its own where they may train, in float32; freeze the rest.

        Args:
            model: Changed in place; tensors that it shares with other models stay theirs.
            after: Names of the modules that run after the layers.
            start: The lowest layer that may train.
            train_embedding: Whether the embedding trains always.

        Raises:
            InputError: The layers cannot be told.
        """
        path, layers = find_layers(model)
        names = {f"{path}.{number}": f"{path}.{number}." for number in range(start, len(layers))}
        _in_float32(model)
        model.requires_grad_(False)
        members: dict[str, list[str]] = {name: [] for name in (*names, ALWAYS)}
        for name, _ in model.named_parameters():
            home = next((group for group, head in names.items() if name.startswith(head)), None)
            if home is None and _is_always(name, path, after, train_embedding):
                home = ALWAYS
            if home is not None:
                members[home].append(name)
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
        """Count every group as changed that holds a parameter of one of these names."""
        wanted = set(names)
        self.changed |= {group for group, items in self.groups.items() if wanted & items.keys()}

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
        """Take the values of `tensors`, and the first ones for groups that are not among them.

        Raises:
            InputError: A name is unknown, or one of a group is missing.
        """
        before, self.changed = self.changed, set()
        self.mark(tensors)
        expected = self.tensors()
        odd = sorted(expected.keys() ^ tensors.keys())
        if odd:
            self.changed = before
            problem = "is missing" if odd[0] in expected else "is of no layer that may train"
            raise InputError(f"trained tensor {odd[0]!r} {problem}")
        for items in self.groups.values():
            for name, value in items.items():
                value.copy_(tensors.get(name, self._origin[name]))

    def changes(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (name, change, start) of every weight that has trained, in float64."""
        for name, value in self.tensors().items():
            start = self._origin[name].to(value.device, torch.float64)
            yield name, value.detach().double() - start, start

    def summary(self) -> dict[str, float]:
        """Return the figures that a fit records.

        Returns:
            `num_layers` and `num_parameters` that trained; `delta_norm`, the Frobenius norm of all
            changes together.
        """
        squared = sum(float(change.norm().square()) for _, change, _ in self.changes())
        return {
            "num_layers": float(len(self.changed - {ALWAYS})),
            "num_parameters": float(sum(value.numel() for value in self.tensors().values())),
            "delta_norm": squared**0.5,
        }


def full_optimizer(
    full: FullLayers,
    head_parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    head_lr: float,
    weight_decay: float = 0.0,
) -> AlternatingOptimizer:
    """Return AdamW on everything that may train, and on a head.

    All layers are in it from the start, in up to four groups: a scheduler knows no others later,
    and a layer that is added after it rested would never move. Matrices decay, biases and
    normalisations do not.

    Args:
        full: The layers and what trains with them, by group.
        head_parameters: Parameters that `head_step()` moves, without weight decay; may be empty.
        lr: Learning rate of everything else.
        head_lr: Learning rate of the head.
        weight_decay: Of matrices.
    """
    layers = [
        item for group, items in full.groups.items() if group != ALWAYS for item in items.values()
    ]
    others = [*full.groups.get(ALWAYS, {}).values()]
    groups = [
        {"params": chosen, "name": name, "weight_decay": decay}
        for name, items in (("adapter", layers), ("outside", others))
        for decay, matrices in ((weight_decay, True), (0.0, False))
        if (chosen := [item for item in items if (item.ndim > 1) == matrices])
    ]
    head = {"params": list(head_parameters), "name": "head"}
    return AlternatingOptimizer(
        [AdamW(groups, lr=lr)],
        [AdamW([head], lr=head_lr, weight_decay=0.0)] if head["params"] else [],
    )


def _is_always(name: str, path: str, after: Collection[str], embedding: bool) -> bool:
    """Return whether a parameter outside the layers that may train is trained at every step."""
    if name.startswith(f"{path}.") or _POOLER in name:
        return False
    return embedding or name.rpartition(".")[0] in after


def _in_float32(model: nn.Module) -> None:
    """Give a model in another precision tensors of its own in float32, frozen.

    Steps of the usual size would round to nothing in bfloat16.
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
    """Put trainable copies in the place of some parameters, and return the copies."""
    parameters = dict(model.named_parameters())
    copies = {name: nn.Parameter(parameters[name].detach().clone()) for name in names}
    _put(model, {id(parameters[name]): copy for name, copy in copies.items()})
    return copies


def _put(model: nn.Module, memo: Mapping[int, nn.Parameter]) -> None:
    """Replace parameters, each in all its places."""
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in memo:
                setattr(module, key, memo[id(parameter)])
