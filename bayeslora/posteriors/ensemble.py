"""A deep ensemble: several trained states of one network, taken in turn.

Source: Lakshminarayanan, Pritzel and Blundell 2017, arXiv 1612.01474.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bayeslora.errors import InputError

State = Mapping[str, Tensor]


class EnsembleDraws:
    """A weight posterior whose draws are the members, in order, over and over.

    Attributes:
        num_members: How many.
    """

    def __init__(self, load: Callable[[State], None], members: Sequence[State]) -> None:
        """Remember the members.

        Args:
            load: Puts a member's tensors into the network, whose frozen part all members share.
            members: The trained tensors of each; the first is in place outside of draws.

        Raises:
            InputError: There is no member.
        """
        if not members:
            raise InputError("an ensemble needs at least one member")
        self.num_members = len(members)
        self._load = load
        self._members = list(members)
        self._next = 0

    @contextmanager
    def draw(self, generator: torch.Generator) -> Iterator[None]:
        """Put the next member in place, and the first one back afterwards."""
        del generator
        member = self._members[self._next % self.num_members]
        self._next += 1
        try:
            self._load(member)
            yield
        finally:
            self._load(self._members[0])
