"""A deep ensemble: several trained states of the same modules, taken in turn.

Source: Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bayeslora.errors import InputError


class EnsembleDraws:
    """A weight posterior whose draws are the members, in order, over and over.

    Attributes:
        num_members: How many.
    """

    def __init__(self, module: nn.Module, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Remember the members.

        Args:
            module: What the members are states of. The shared, frozen part may be absent from them.
            members: State dicts, of all or some of the module's tensors.

        Raises:
            InputError: There is no member, or one has a tensor that the module lacks or that has
                another shape.
        """
        if not members:
            raise InputError("an ensemble needs at least one member")
        own = module.state_dict()
        for index, member in enumerate(members):
            for name, tensor in member.items():
                if name not in own or own[name].shape != tensor.shape:
                    raise InputError(
                        f"member {index} has a tensor {name!r} {list(tensor.shape)} that does not "
                        f"fit this network"
                    )
        self.num_members = len(members)
        self._module = module
        self._members = [dict(member) for member in members]
        self._next = 0

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Put the next member in place, and the module's own tensors back afterwards."""
        del generator
        member = self._members[self._next % self.num_members]
        self._next += 1
        own = {name: self._module.state_dict()[name].clone() for name in member}
        try:
            self._load(member)
            yield
        finally:
            self._load(own)

    def _load(self, state: Mapping[str, Tensor]) -> None:
        targets = self._module.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                targets[name].copy_(tensor)
